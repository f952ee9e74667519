"""Finished runs as a library user reads them: data frames, curves, matrices, findings; the only file with pandas."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench.analysis.queries import SEEN, rank_table
from ctvr_bench.bench.api.kept import head_of, task_of
from ctvr_bench.bench.records.aggregate import OWN, Row, Run, SuiteResults, read_results
from ctvr_bench.bench.records.files import write_bytes
from ctvr_bench.bench.records.kept import read_kept
from ctvr_bench.bench.records.record import write_text
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.features.errors import InputError, unknown_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ctvr_bench.features.store import FeatureStore
    from ctvr_bench.methods.shared.base import Method

Floats = npt.NDArray[np.float64]


def load(path: str | os.PathLike[str]) -> Results:
    """The results in a suite's folder, or of one of the files under its `suites/`.

    Raises InputError where no run is finished, or one is not what was written.
    """
    return Results(read_results(Path(path)))


class Results:
    """The finished runs of a suite, from their records alone.

    >>> import ctvr_bench
    >>> found = ctvr_bench.load(runs)
    >>> found
    Results('default': 2 rows, 2 runs)
    >>> table = found.to_dataframe()
    >>> list(table["method"]), "t2v/stored/seen/R@1" in table, "cost.train_s" in table
    (['zero_shot', 'finetune'], True, True)
    """

    def __init__(self, suite: SuiteResults) -> None:
        self.suite = suite

    def __repr__(self) -> str:
        runs = sum(len(row.runs) for row in self.suite.rows)
        return f"Results({self.suite.name!r}: {len(self.suite.rows)} rows, {runs} runs)"

    @property
    def labels(self) -> list[str]:
        """Names of the rows, in the order of the suite."""
        return [row.label for row in self.suite.rows]

    @property
    def path(self) -> Path:
        """The folder of the runs."""
        return self.suite.directory

    @property
    def unfinished(self) -> list[str]:
        """A line for each run that is in no table, with its reason."""
        return [f"{record.label}: {record.status}, {record.reason}" for record in self.suite.unfinished]

    def to_dataframe(self) -> pd.DataFrame:
        """A row a run: label, method, order, seed, every final metric, `cost.*`, `config.*`, and where it lies.

        Metrics in percent or ranks (docs/protocol.md), costs in seconds, bytes and operations.
        """
        return _frame(_facts(row, run) for row, run in self._runs())

    def queries(self) -> pd.DataFrame:
        """A row a query and stage: label, order, seed, stage and task (from 1), caption, video, rank and top video.

        Of the headline: text to video, stored galleries, all tasks seen. caption, video, top: rows of the store.
        """
        return _joined(self._queries(row, run) for row, run in self._runs())

    def curve(self, metric: str = HEADLINE) -> pd.DataFrame:
        """A row a run and stage: label, order, seed, stage (from 1) and the metric's value after it.

        Raises InputError for an unknown metric.

        >>> import ctvr_bench
        >>> ctvr_bench.load(runs).curve().groupby("label")["value"].count().to_dict()
        {'finetune [epochs=1]': 3, 'zero_shot': 3}
        """
        return _frame(
            {**_place(row, run), "stage": number, "value": value}
            for row, run in self._runs()
            for number, value in enumerate(run.curve(metric), start=1)
        )

    def matrix(self, label: str, metric: str = OWN) -> Floats:
        """R@1 in percent on task j after task i, [T, T], mean over the row's runs; NaN above the diagonal.

        Raises InputError for an unknown label or matrix.

        >>> import ctvr_bench
        >>> ctvr_bench.load(runs).matrix("zero_shot").shape
        (3, 3)
        """
        row = self._row(label)
        for run in row.runs:
            if metric not in run.metrics["matrices"]:
                raise unknown_name("matrix", metric, run.metrics["matrices"])
        return np.asarray(np.mean([run.matrix(metric) for run in row.runs], axis=0))

    def findings(self, against: str | None = None) -> list[str]:
        """What the runs allow to say: of the row `against` first, then of methods of one's own, then of all."""
        from ctvr_bench.bench.analysis.against import all_sentences
        from ctvr_bench.bench.analysis.findings import evidence

        return all_sentences(self.suite, evidence(self.suite), against)

    def differences(self, against: str) -> pd.DataFrame:
        """A row for every other row: its R@1 minus that one's, with low, high (95 %, all pairs) and p.

        The same test as in every table (docs/statistics.md). Raises InputError for an unknown label.
        """
        from ctvr_bench.bench.analysis.findings import against as compared

        lines = []
        for found in compared(self.suite, against):
            pair = found.interval
            numbers = {"difference": pair.estimate, "low": pair.low, "high": pair.high, "p": found.p}
            lines.append({"label": found.first, "against": against, **numbers, "runs": found.runs})
        return _frame(lines)

    def model(
        self,
        task: int | None = None,
        label: str | None = None,
        *,
        order: int | None = None,
        seed: int | None = None,
        store: FeatureStore | None = None,
    ) -> Method:
        """The head of a run as it was after a task (from 1; default the last), which embeds as it did in the run.

        label: of a row; order, seed: default its first run. store: where it is not where it was; asked for only by what
        nothing was kept of and by methods with a reference bank. Needs `run(keep="weights")`, but for what is not
        trained. Raises InputError where the weights were not kept, are altered, or the method's code is another.

        >>> import ctvr_bench
        >>> head = ctvr_bench.load(runs).model(task=2, label="finetune [epochs=1]")
        >>> head.name, head.training
        ('finetune', False)
        """
        return head_of(self.run_of(label, order, seed), task, store)

    def embeddings(
        self, task: int | None = None, label: str | None = None, *, order: int | None = None, seed: int | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What a run with `keep="embeddings"` kept after a task (from 1; default the last): arrays [N, D] by name.

        text_ND, video_ND under the model of then; frozen_text_ND, stored_video_ND of when their task ended. Rows: the
        queries of `queries()` at that stage. Raises InputError as `model` does.
        """
        run = self.run_of(label, order, seed)
        tensors, _ = read_kept(run.directory, run.record.files, "embeddings", task_of(run, task))
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def top(self) -> pd.DataFrame:
        """A row a query, stage and place, of every run with `keep="top=K"`.

        label, order, seed, stage and place (from 1), caption, video and score; stored galleries of all tasks seen.
        Raises InputError where no run kept its first items.
        """
        kept = [(row, run) for row, run in self._runs() if run.record.keep.top]
        if not kept:
            raise InputError(f"{self.path}: no run kept its first items; repeat 'run' with --keep top=100")
        return _joined(table for row, run in kept for table in self._top(row, run))

    def run_of(self, label: str | None = None, order: int | None = None, seed: int | None = None) -> Run:
        """One run: of a row (default the only one, or the only one that kept weights), the first unless said otherwise.

        Raises InputError where there is none, or more than one row that could be meant.
        """
        kept = [row.label for row in self.suite.rows if row.runs[0].record.keep.weights]
        choices = next((labels for labels in (self.labels, kept) if len(labels) == 1), [])
        if label is None and not choices:
            raise InputError(f"{self.path}: has {len(self.labels)} rows; name one as label: {', '.join(self.labels)}")
        row = self._row(choices[0] if label is None else label)
        for run in row.runs:
            config = run.record.config
            if order in (None, config.options["order"]) and seed in (None, config.seed):
                return run
        raise InputError(f"{self.path}: {row.label} has no finished run of order {order} and seed {seed}")

    def plot_curves(self, ax: Axes | None = None, metric: str = HEADLINE) -> Axes:
        """Draw a metric after every task, a line for each row with its deviation over runs; returns the axes."""
        from ctvr_bench.bench.report.plots import draw_curves

        return draw_curves(self.suite, metric, ax)

    def _runs(self) -> Iterator[tuple[Row, Run]]:
        return ((row, run) for row in self.suite.rows for run in row.runs)

    def _row(self, label: str) -> Row:
        for row in self.suite.rows:
            if row.label == label:
                return row
        raise unknown_name("row", label, self.labels)

    @staticmethod
    def _queries(row: Row, run: Run) -> dict[str, Any]:
        table = rank_table(run)
        stage_Q, query_Q = np.nonzero(table.ranks[SEEN] > 0)
        return {
            **_place(row, run),
            "stage": stage_Q + 1,
            "task": table.task_N[query_Q] + 1,
            "caption": table.caption_N[query_Q],
            "video": table.video_N[query_Q],
            "rank": table.ranks[SEEN][stage_Q, query_Q],
            "top": table.video_N[table.best[SEEN][stage_Q, query_Q]],
        }

    @staticmethod
    def _top(row: Row, run: Run) -> Iterator[dict[str, Any]]:
        table = rank_table(run)
        for task in range(run.record.tasks):
            tensors, _ = read_kept(run.directory, run.record.files, "top", task)
            item_NK, score_NK = tensors["item_NK"].numpy(), tensors["score_NK"].numpy()
            count, width = item_NK.shape
            yield {
                **_place(row, run),
                "stage": task + 1,
                "caption": np.repeat(table.caption_N[:count], width),
                "place": np.tile(np.arange(1, width + 1), count),
                "video": table.video_N[item_NK.ravel()],
                "score": score_NK.ravel(),
            }


def write_frame(frame: pd.DataFrame, path: Path, format_: str) -> None:
    """Write a table as CSV, JSON (a list of rows) or Parquet, whole or not at all.

    Raises InputError where Parquet's library is not installed.
    """
    if format_ == "parquet":
        try:
            content: bytes = frame.to_parquet(index=False)
        except ImportError as error:
            raise InputError(
                "Parquet files need pyarrow, which is not installed; pip install ctvr-bench[parquet]"
            ) from error
        write_bytes(path, content)
    else:
        write_text(path, frame.to_csv(index=False) if format_ == "csv" else frame.to_json(orient="records", indent=1))


def _place(row: Row, run: Run) -> dict[str, Any]:
    config = run.record.config
    return {"label": row.label, "order": config.options["order"], "seed": config.seed}


def _facts(row: Row, run: Run) -> dict[str, Any]:
    config, cost = run.record.config, run.record.cost
    return {
        **_place(row, run),
        "method": config.method,
        "stream": config.stream,
        "store": config.store.digest,
        "selection": config.selection,
        "smoke_test": config.limit,
        **run.final,
        **({} if cost is None else {f"cost.{name}": value for name, value in cost.model_dump().items()}),
        **{f"config.{name}": value for name, value in config.config.items()},
        "run": str(run.directory),
    }


def _frame(lines: Any) -> pd.DataFrame:
    return _pandas().DataFrame(list(lines))


def _joined(tables: Iterator[dict[str, Any]]) -> pd.DataFrame:
    pandas = _pandas()
    return pandas.concat([pandas.DataFrame(table) for table in tables], ignore_index=True)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise InputError("data frames need pandas, which is not installed; pip install ctvr-bench[frames]") from error
    return pandas
