"""A suite on a real Dask scheduler and worker, in this process; `make test-cluster` has processes that die."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.executors import cluster
from ctvr_bench.bench.executors.galleries import counted_ranks, sharded_ranks
from ctvr_bench.bench.records.record import read_record
from ctvr_bench.bench.suite.config import make_suite, placed
from ctvr_bench.bench.suite.folders import same_ranks
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from tests.bench.executors.test_galleries import ITEMS, QUERY, TARGET
from tests.bench.run.test_runner import suite
from tests.commands import ROOT, fails
from tests.stores import small_store


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with one worker."""
    distributed = pytest.importorskip(
        "distributed", reason="needs the extra `cluster`: pip install 'ctvr-bench[cluster]'"
    )
    with distributed.LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0", protocol="tcp://"
    ) as local:
        yield local.scheduler_address


def test_the_same_suite_on_a_cluster_leaves_the_same_bits(scheduler: str, tmp_path: Path) -> None:
    """And one that was begun locally goes on there, and back."""
    said: list[str] = []
    (zero_shot,) = run_suite(suite(tmp_path / "there", "zero_shot"))
    there = suite(
        tmp_path / "there",
        "zero_shot",
        "finetune",
        seeds=5,
        executor="dask",
        scheduler=scheduler,
        stage=tmp_path / "disk",
    )
    found = run_suite(there, lambda progress: said.append(progress.note))
    here = run_suite(suite(tmp_path / "here", "finetune", seeds=5))
    assert [record.run_id for record in found[1:]] == [record.run_id for record in here]
    assert found[0].model_dump() == zero_shot.model_dump()
    for record in here:
        other = tmp_path / "there/default" / record.run_id
        assert read_record(other).files["metrics.json"] == record.files["metrics.json"]
        assert same_ranks(tmp_path / "here/default" / record.run_id, other)
        assert read_record(other).together == record.together == 5
    assert "1 worker on 1 node" in said
    assert [path.name for path in (tmp_path / "disk").glob("*.h5")] == [f"{small_store().digest[:16]}.h5"]
    assert not [path.name for path in (tmp_path / "there/default").iterdir() if path.name.startswith(".")]
    again = run_suite(there.model_copy(update={"executor": "local", "scheduler": None, "stage": None}))
    assert [record.model_dump() for record in again] == [record.model_dump() for record in found]


def test_a_gallery_shared_out_over_a_cluster_has_the_same_ranks(scheduler: str, tmp_path: Path) -> None:
    from distributed import Client

    np.save(tmp_path / "g.npy", ITEMS.numpy())
    with Client(scheduler, set_as_default=False) as client:
        found = sharded_ranks(QUERY, tmp_path / "g.npy", TARGET, 3, client.get_executor())
    assert np.array_equal(found, counted_ranks(QUERY, ITEMS.numpy(), TARGET))


def test_wrong_places_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("run", "--store", small_store().path, "--methods", "zero_shot", "--out", tmp_path / "runs")
    assert "add executor = 'dask'" in fails(tmp_path, *run, "--scheduler", "here:8786")
    with pytest.raises(InputError, match=r"executor: input should be 'local' or 'dask'; got 'ray'"):
        make_suite({"store": "a.h5", "executor": "ray"}, "test")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'ctvr-bench[cluster]'" in fails(tmp_path, *run, "--executor", "dask")
    config = make_suite({"store": "a.h5", "seeds": 7, "set": {"lwf": {"lr": 1e-3}}}, "test")
    there = placed(config, "dask", "here:8786", None)
    assert there == config.model_copy(update={"executor": "dask", "scheduler": "here:8786"})
    with pytest.raises(InputError, match="add executor = 'dask'"):
        placed(config, None, None, tmp_path)


def test_where_no_scheduler_answers_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    run = ("run", "--store", small_store().path, "--methods", "zero_shot", "--out", tmp_path / "runs")
    monkeypatch.setattr(cluster, "_START", 0.0)
    monkeypatch.setattr(cluster, "_AGAIN", 0.0)
    monkeypatch.setattr(cluster, "_CONNECT", 1.0)
    for scheduler in (tmp_path / "none.json", "tcp://127.0.0.1:1", "nonsense://"):
        assert "no Dask scheduler answers there" in fails(
            tmp_path, *run, "--executor", "dask", "--scheduler", scheduler
        )


def test_the_templates_of_the_docs_can_be_read() -> None:
    """Slurm's are shell scripts that parse, Kubernetes' two documents whose kinds are what they should be."""
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    scripts = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert len(scripts) == 3
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (manifest,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    cluster, job = yaml.safe_load_all(manifest)
    assert (cluster["kind"], job["kind"]) == ("DaskCluster", "Job")
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[command.index("--scheduler") + 1] == f"tcp://{cluster['metadata']['name']}-scheduler:8786"
