"""Figures drawn once: again only where a run, the code that draws, or a figure's file is another than it was."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from ctvr_bench.bench.records.aggregate import SuiteResults
from ctvr_bench.bench.records.record import write_json
from ctvr_bench.features.whole import digest_of_file

_CODE = Path(__file__).resolve().parents[1]
_LIBRARIES = ("matplotlib", "numpy", "pillow", "scipy")


def figures_of(results: SuiteResults, folder: Path) -> dict[str, Path]:
    """The PNG file of each figure by name, all of them in `folder` beside their PDFs.

    drawn.json there holds the digest of what they were drawn from, and of every file.
    """
    drawn_from, note = _inputs(results), folder / "drawn.json"
    if (kept := _kept(note, drawn_from)) is not None:
        return kept
    from ctvr_bench.bench.report import plots

    note.unlink(missing_ok=True)
    images = plots.save_figures(results, folder)
    if images:
        files = {path.name: digest_of_file(path) for path in sorted(folder.iterdir()) if path.stem in images}
        write_json(note, {"drawn_from": drawn_from, "figures": list(images), "files": files})
    return images


def _kept(note: Path, drawn_from: str) -> dict[str, Path] | None:
    """The figures of an earlier report; None where one has to be drawn."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        whole = known["drawn_from"] == drawn_from and all(
            digest_of_file(note.parent / name) == digest for name, digest in known["files"].items()
        )
        return {name: note.parent / f"{name}.png" for name in known["figures"]} if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _inputs(results: SuiteResults) -> str:
    """Digest of the records and metrics of all runs in the order of their rows, of bench's code and its libraries."""
    sha = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in _LIBRARIES).encode())
    for path in sorted(_CODE.rglob("*.py")):
        sha.update(path.read_bytes())
    for row in results.rows:
        sha.update(f"{row.label}\n".encode())
        for run in row.runs:
            for name in ("run.json", "metrics.json", "ranks.h5"):
                sha.update(digest_of_file(run.directory / name).encode())
    return sha.hexdigest()
