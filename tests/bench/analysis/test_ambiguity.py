from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.analysis.ambiguity import Ambiguity, ambiguity
from ctvr_bench.bench.analysis.findings import evidence, sentences
from ctvr_bench.bench.analysis.queries import SEEN, rank_table
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import FeatureStore, open_store
from tests.bench.fake_suite import write_suite

FITS = [[0, 1, 2], [1], [2, 20], [3], [4, 5], *([n] for n in range(5, 24))]  # of the caption of each video


@pytest.fixture
def results(tmp_path: Path) -> SuiteResults:
    return read_results(write_suite(tmp_path / "runs", ("zero_shot", "finetune"), seeds=2))


@pytest.fixture
def store(tmp_path: Path, results: SuiteResults) -> FeatureStore:
    table = rank_table(results.rows[0].runs[0])
    assert np.array_equal(table.caption_N, table.video_N + 100)  # so the made-up ranks have it
    fits: list[list[int]] = [[]] * 100 + FITS

    class Knowing(FeatureStore):
        knows_fits = True

        def feature(self, dataset: str) -> np.ndarray:
            return {
                "captions/fit_offsets": np.cumsum([0, *map(len, fits)]),
                "captions/fit_videos": np.concatenate(fits),
            }[dataset]

    structure = generated_structure(2, 1, 2, 2, captions_per_train_video=1)
    synthesise(structure, SyntheticConfig(dim=8, latent_dim=6), tmp_path / "s.h5", name="any")
    opened = open_store(tmp_path / "s.h5")
    opened.__class__ = Knowing
    return opened


def test_the_ceiling_is_a_fair_guess_among_all_that_fit(results: SuiteResults, store: FeatureStore) -> None:
    found = ambiguity(results, results.rows, store)
    queries = len(rank_table(results.rows[0].runs[0]).caption_N)
    assert found is not None
    assert queries == 24
    assert found.ceiling == pytest.approx(100 * (1 / 3 + 1 + 1 / 2 + 1 + 1 / 2 + 19) / 24)


def test_a_miss_counts_as_ambiguous_where_the_top_video_fits_too(results: SuiteResults, store: FeatureStore) -> None:
    found = ambiguity(results, results.rows, store)
    assert found is not None
    for row in results.rows:
        shares = []
        for run in row.runs:
            table = rank_table(run)
            missed = [n for n in range(24) if table.ranks[SEEN][-1, n] > 1]
            tops = [int(table.video_N[table.best[SEEN][-1, n]]) for n in missed]
            fitting = [
                top in (FITS[n] if n < 5 else [n + 100])
                for n, top in zip(table.caption_N[missed].tolist(), tops, strict=True)
            ]
            shares.append(100 * sum(fitting) / len(missed))
        assert found.misses_by_label[row.label] == pytest.approx(np.mean(shares))


def test_the_report_says_it_only_where_the_store_knows(results: SuiteResults, store: FeatureStore) -> None:
    assert "Captions fit more than one item" in " ".join(sentences(results, evidence(results, store)))
    assert "fit more than one" not in " ".join(sentences(results, evidence(results)))


def test_many_rows_are_said_as_a_range_and_few_by_name() -> None:
    shares = {f"method {number}": 5.0 + number for number in range(12)}
    assert (
        Ambiguity(90, shares)
        .sentences()[1]
        .endswith("as well as its own: " + ", ".join(f"{label} {share:.0f} %" for label, share in shares.items()) + ".")
    )
    assert (
        Ambiguity(90, {"worst": 30.0, **shares})
        .sentences()[1]
        .endswith("as well as its own: 5 % (method 0) to 30 % (worst).")
    )
    assert len(Ambiguity(90, {}).sentences()) == 1
