"""Outputs of the authors' own functions on small inputs (`tests/golden`), and files that others own.

What is published without a licence, or by others, is not in this repository: the environment variable CTVR_SHARED names
a folder that holds it, `shared` beside the checkout unless it is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SHARED = Path(os.environ.get("CTVR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
GOLDEN = Path(__file__).parent / "golden"


def shared(*parts: str) -> Path:
    """A file or folder below `shared`; skips the calling test where it does not exist."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"nothing at {path}; set CTVR_SHARED to the folder that holds {parts[0]}/")
    return path


def golden(name: str) -> dict[str, npt.NDArray[Any]]:
    """Every array of `tests/golden/<name>.npz`, described in the README there."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
