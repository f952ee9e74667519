import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from ctvr_bench.bench.analysis.columns import COLUMNS, CONTINUAL, PAPER, RETRIEVAL, references
from ctvr_bench.bench.analysis.compare import compare
from ctvr_bench.bench.analysis.contrasts import contrasts
from ctvr_bench.bench.analysis.findings import against, evidence, sentences
from ctvr_bench.bench.analysis.pairing import pair_runs
from ctvr_bench.bench.analysis.queries import lost_queries
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.report.latex import Marks, latex_table
from ctvr_bench.bench.report.report import recompute_metrics, report_with_findings, write_report
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import create_store, open_store
from tests.bench.fake_suite import STORE, write_suite

pytestmark = pytest.mark.set_up_once
VOID = {"meta", "img", "link", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Checks that tags balance; keeps the texts of table rows, images, links and ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.images, self.ids, self.anchors = [], [], [], [], []
        self.resources, self.heads = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")
        if tag == "img":
            self.images.append(values)
        if tag == "th":
            self.heads.append(values)
        self.ids += [values["id"]] if "id" in values else []
        self.anchors += [values["href"]] if tag == "a" else []
        self.resources += [values[key] for key in ("src", "href") if key in values]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open:
            self.rows[-1] += data


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    directory = write_suite(tmp_path_factory.mktemp("runs") / "made_up", failed=["broken & <b>"])
    return read_results(directory), write_report(directory)


@pytest.fixture(scope="module")
def page(suite):
    return Page(suite[1].read_text(encoding="utf-8"))


def test_html_is_balanced_and_loads_nothing_from_outside(suite, page):
    text = suite[1].read_text(encoding="utf-8")
    assert suite[1].stat().st_size < 3_000_000
    assert re.findall(r"https?://", text) == []
    assert all(source.startswith(("data:", "#", "figures/")) or "/" not in source for source in page.resources)
    assert len(page.ids) == len(set(page.ids))
    assert {anchor[1:] for anchor in page.anchors if anchor.startswith("#")} <= set(page.ids)


def test_every_image_is_described_and_every_head_has_a_scope(page):
    assert len(page.images) >= 6
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert all(head["scope"] in ("col", "row") for head in page.heads)


def test_links_lead_to_files_that_exist(suite, page):
    local = [anchor for anchor in page.anchors if not anchor.startswith("#")]
    assert local
    assert all((suite[1].parent / anchor).exists() for anchor in local)


def test_html_latex_csv_json_and_markdown_have_the_same_numbers(suite, page):
    results, path = suite
    saved = json.loads((path.parent / "metrics.json").read_text(encoding="utf-8"))
    lines = {line["label"]: line for line in csv.DictReader(io.StringIO((path.parent / "table.csv").read_text()))}
    markdown, latex = ((path.parent / name).read_text() for name in ("report.md", "table.tex"))
    for row in saved["rows"]:
        html = " ".join(text for text in page.rows if text.startswith(row["label"]))
        name = row["label"].replace("_", "\\_")
        for column in COLUMNS:
            value = row["values"][column.key]["mean"]
            expected = column.cell(next(r for r in results.rows if r.label == row["label"])).mean
            assert value == expected
            if value is None:
                continue
            assert float(lines[row["label"]][f"{column.key} mean"]) == value
            text = column.text(value)
            assert text.replace("-", "−") in html
            assert any(text in line for line in markdown.splitlines() if name in line)
            if column in PAPER:
                assert any(text.replace("-", "$-$") in line for line in latex.splitlines() if name in line)
        for column in (*RETRIEVAL, *CONTINUAL):
            interval = row["values"][column.key]["interval"]
            assert (interval is None) == (lines[row["label"]][f"{column.key} low"] == "")
            if interval is None:
                continue
            assert float(lines[row["label"]][f"{column.key} low"]) == interval["low"]
            assert float(lines[row["label"]][f"{column.key} high"]) == interval["high"]
            low, high = interval["low"], interval["high"]
            shown = (max(0.0, low), min(100.0, high)) if column.unit == "%" else (low, high)
            between = "too few runs" if high - low > 100 else f"{column.text(shown[0])} to {column.text(shown[1])}"
            assert between.replace("-", "−") in html
            if column in PAPER:
                assert any(between in line for line in markdown.splitlines() if name in line)


def test_runs_that_did_not_finish_are_listed_with_their_reason(suite):
    text = suite[1].read_text(encoding="utf-8")
    assert "3 of 16 runs did not finish" in text
    assert "broken &amp; &lt;b&gt;" in text
    for name in ("index.html", "report.md", "metrics.json"):
        assert "the loss was not finite in task 2" in (suite[1].parent / name).read_text(encoding="utf-8")


def test_simulated_features_are_called_so(suite):
    for name in ("index.html", "report.md", "table.tex"):
        assert "simulated" in (suite[1].parent / name).read_text(encoding="utf-8").lower()


def test_recompute_gives_the_metrics_of_the_run_again(suite, tmp_path, no_figures):
    results, _ = suite
    files = [run.directory / "metrics.json" for row in results.rows for run in row.runs]
    before = [file.read_bytes() for file in files]
    files[0].write_text("{}")
    write_report(results.directory, recompute=True)
    assert [file.read_bytes() for file in files] == before


def test_figures_come_from_records_alone(suite):
    """The store of this suite never existed, and nothing but run.json, ranks.h5 and metrics.json was written."""
    figures = {path.name for path in (suite[1].parent / "figures").iterdir()}
    assert {"accuracy_against_tasks.png", "forgetting_heat_maps.png", "critical_difference.png"} <= figures


@pytest.mark.parametrize("pdf", [True, False])
def test_every_link_of_the_page_leads_to_a_file(suite, tmp_path, monkeypatch, pdf):
    def drawn(results, folder, kinds):
        for kind in kinds:
            (folder / f"loss_split.{kind}").write_bytes(b"drawn")
        return {"loss_split": folder / "loss_split.png"}

    monkeypatch.setattr("ctvr_bench.bench.report.plots.save_figures", drawn)
    (tmp_path / "figures").mkdir()
    if pdf:
        (tmp_path / "figures/loss_split.pdf").write_bytes(b"of --format pdf")
    index, _ = report_with_findings(suite[0].directory, folder=tmp_path)
    links = [link for link in Page(index.read_text(encoding="utf-8")).anchors if not link.startswith(("#", "http"))]
    assert [link for link in links if not (index.parent / link).exists()] == []
    assert ("figures/loss_split.pdf" in links) == pdf


def test_lost_queries_are_those_that_were_first_and_are_not_any_more(suite):
    run = suite[0].rows[-1].runs[0]
    found, total, old = lost_queries(run, limit=3)
    assert old == 16
    assert 0 < len(found) <= 3
    assert len(found) <= total <= old
    assert [query.now for query in found] == sorted((query.now for query in found), reverse=True)
    assert all(query.now > 1 and query.thief != query.video for query in found)
    assert all(query.thief_task == query.thief // 8 + 1 for query in found)


def test_queries_are_shown_in_their_words_where_the_store_is_named(tmp_path, monkeypatch, no_figures):
    store = _store(tmp_path / "fake.h5")
    directory = write_suite(tmp_path / "worded", ["zero_shot", "er"], seeds=1)
    with pytest.raises(InputError, match="is not the store of these runs"):
        write_report(directory, store=store)
    monkeypatch.setattr("ctvr_bench.features.store.FeatureStore.digest", STORE.digest)
    text = write_report(directory, store=store).read_text(encoding="utf-8")
    assert "a clip &lt;number&gt;" in text
    page = Page(text)
    assert any(image["alt"].startswith("frames of clip") for image in page.images)
    assert "caption 1" in write_report(directory).read_text(encoding="utf-8")


def test_a_method_without_training_meets_every_seed_of_the_other(suite):
    rows = {row.label: row for row in suite[0].rows}
    pairing = pair_runs(rows["er"], rows["zero_shot"])
    assert pairing.paired
    assert pairing.first == list(rows["er"].runs)
    assert pairing.second == [rows["zero_shot"].runs[0]] * 3


def test_one_seed_is_said_to_be_too_few(tmp_path):
    results = read_results(write_suite(tmp_path / "one", ["zero_shot", "lwf", "er"], seeds=1))
    found = evidence(results)
    assert all(comparison.p is None for comparison in found.against_best)
    assert all(0 < comparison.p_here <= 1 for comparison in found.against_best)
    assert "run at least three" in " ".join(sentences(results, found))
    names = [f"er{number}" for number in range(20)]
    many = read_results(write_suite(tmp_path / "many", names, seeds=1))
    (said,) = [text for text in sentences(many, evidence(many)) if "run at least three" in text]
    assert re.fullmatch(r"One run of er\d+ and of 1\d others says nothing about seeds; run at least three\.", said)


def test_a_difference_has_one_p_value_in_every_table(tmp_path, no_figures):
    """In the findings, the JSON, the marks of the paper's table, and against a row, with interval and p."""
    labels = ["zero_shot", "lwf", *(f"filler_{i}" for i in range(8)), "er"]
    results = read_results(write_suite(tmp_path / "one", labels, seeds=3, queries=30, tasks=2))
    found = evidence(results)
    best = found.against_best[0].first
    by_second = {c.second: c for c in [*found.against_best, *found.against_zero_shot] if c.first == best}
    assert len(by_second) == len(labels) - 1
    saved = json.loads((write_report(results.directory).parent / "metrics.json").read_text())
    for name, comparison in [*by_second.items()][::4]:
        ((there,),) = ([c for c in against(results, name) if c.first == best],)
        (contrast,) = (c for c in contrasts([results], name, HEADLINE) if c.label == best)
        table = "against_best" if name != "zero_shot" else "against_zero_shot"
        (written,) = (c for c in saved[table] if (c["first"], c["second"]) == (best, name))
        assert comparison.p == there.p == contrast.p == written["p"]
        assert comparison.interval.low == contrast.low == written["difference"]["low"]
        mean = [np.mean(row.values(HEADLINE)) for label in (best, name) for row in results.rows if row.label == label]
        assert comparison.interval.estimate == pytest.approx(mean[0] - mean[1]) == contrast.difference
        (mirrored,) = (c for c in contrasts([results], best, HEADLINE) if c.label == name)
        assert (mirrored.difference, mirrored.low, mirrored.p) == (-contrast.difference, -contrast.high, contrast.p)
    tied = {name for name, comparison in by_second.items() if comparison.p >= 0.05}
    marked = {
        line.split(" &")[0]
        for line in latex_table(results, marks=[Marks(tuple(found.tied))]).splitlines()
        if "dagger" in line and "&" in line
    }
    assert {name.replace("_", r"\_") for name in tied} == marked
    assert 0 < len(tied) < len(by_second)


def test_what_is_not_trained_is_told_by_the_record_and_not_by_its_name(tmp_path, no_figures):
    """A plugin without training: a reference, with a p-value, and Friedman's test goes on without it."""
    labels = ["zero_shot", "lwf", "finetune", *(f"filler_{i}" for i in range(6)), "er"]
    plain = read_results(write_suite(tmp_path / "plain", labels, seeds=4))
    for path in (tmp_path / "plain").glob("zero_shot-*/run.json"):
        values = json.loads(path.read_text())
        values["label"] = values["config"]["method"] = "my_features"
        path.write_text(json.dumps(values))
    renamed = read_results(tmp_path / "plain")
    one, other = evidence(plain), evidence(renamed)
    assert [row.label for row in references(renamed)] == ["my_features"]
    assert [c.p for c in other.against_zero_shot] == [c.p for c in one.against_zero_shot]
    assert {c.second for c in other.against_zero_shot} == {"my_features"}
    assert other.ranks == one.ranks is not None
    assert sentences(renamed, other) == sentences(plain, one)
    again = {row.label: row for row in compare(renamed, renamed).rows}
    assert again["my_features"].paired == 1
    assert all(d.p is not None for d in again["my_features"].differences if d.interval is not None)


def test_training_that_ends_below_the_untrained_features_is_said_first(tmp_path):
    results = read_results(write_suite(tmp_path / "low", ["zero_shot", "lwf", "er"], seeds=3, queries=30))
    for row in results.rows[1:2]:
        for run in row.runs:
            table = RankTable.load(run.directory / "ranks.h5")
            ranks = {name: np.array(values) for name, values in table.ranks.items()}
            ranks["stored/seen/t2v"][-1, :40] = 9
            replace(table, ranks=ranks).save(run.directory / "ranks.h5")
    recompute_metrics(results.directory)
    results = read_results(results.directory)
    first, *rest = sentences(results, evidence(results))
    mean = {row.label: np.mean(row.values(HEADLINE)) for row in results.rows}
    below = [label for label in mean if mean[label] < mean["zero_shot"]]
    assert "lwf" in below
    assert first.startswith("Trained and below the same features without training: ")
    assert [label for label in mean if f"{label} (-" in first] == below
    assert "beyond noise" in first
    assert not any("Trained and below" in sentence for sentence in rest)


def test_the_findings_say_what_difference_the_runs_could_have_told(suite):
    found = evidence(suite[0])
    pairs = [comparison.difference for comparison in found.against_best]
    (said,) = (line for line in sentences(suite[0], found) if "could" in line or "tell a true difference" in line)
    assert f"about {np.median([pair.smallest_of_all() for pair in pairs]):.1f} points" in said
    assert f"({np.median([pair.smallest() for pair in pairs]):.1f} points" in said


def test_a_clear_difference_is_claimed_and_a_small_one_is_not(suite, tmp_path):
    labels = ["zero_shot", *(["lwf"] * 1), *(f"filler_{i}" for i in range(12)), "er"]
    results = read_results(write_suite(tmp_path / "wide", labels, queries=30, tasks=2))
    found = evidence(results)
    best = found.against_best[0].first
    weakest = next(comparison for comparison in found.against_best if comparison.second == "lwf")
    assert weakest.differs
    assert weakest.interval.low > 0
    near = found.against_best[0]
    assert not near.differs
    assert near.needed is None or near.needed > near.runs
    said = " ".join(sentences(results, found))
    assert f"{best} has the highest R@1" in said
    assert "ahead of" in said


def test_with_three_orders_what_holds_for_these_alone_is_said_apart(tmp_path):
    labels = ["zero_shot", "lwf", *(f"filler_{i}" for i in range(6)), "er"]
    results = read_results(write_suite(tmp_path / "wide", labels, seeds=3, orders=3, queries=30, tasks=2))
    found = evidence(results)
    assert all(comparison.p_here is not None for comparison in found.against_best)
    here = [comparison.second for comparison in found.against_best if comparison.differs_here]
    said = " ".join(sentences(results, found))
    assert here == ["filler_4"]  # p 0.16 for orders in general, 0.02 for these
    assert f"On these 3 task orders alone it is also ahead of {here[0]}" in said
    (weakest,) = (comparison for comparison in found.against_best if comparison.second == "lwf")
    assert weakest.here.low > weakest.difference.low  # both p-values are at the smallest that is told
    one = evidence(read_results(write_suite(tmp_path / "one", labels, queries=30, tasks=2)))
    assert all(comparison.here is None for comparison in one.against_best)


def test_importing_the_report_loads_neither_torch_nor_matplotlib():
    code = "import sys, ctvr_bench.bench.report.report\n"
    code += "print([m for m in ('torch', 'matplotlib', 'faiss') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def _store(path):
    videos, captions = 24, 124
    with create_store(path, name="fake_store", simulated=True) as store:
        store["videos/id"] = [f"clip{i}" for i in range(videos)]
        store["videos/category"] = np.arange(videos, dtype=np.int32) // 4
        store["videos/strip"] = np.random.default_rng(0).integers(0, 255, (videos, 8, 24, 3)).astype(np.uint8)
        store["captions/video"] = np.arange(captions, dtype=np.int64) % videos
        store["captions/text"] = [f"a clip <number> {i}" for i in range(captions)]
        store["categories/name"] = [f"category {i}" for i in range(6)]
    return open_store(path).path
