"""Outputs of the authors' own functions on small inputs, the outside reference of our tests.

They lie beside the checkout in `shared/golden`; the environment variable CTVR_SHARED names another `shared`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SHARED = Path(os.environ.get("CTVR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
GOLDEN = SHARED / "golden"


def shared(*parts: str) -> Path:
    """A file or folder below `shared`; skips the calling test where it does not exist."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"nothing at {path}; set CTVR_SHARED to the folder that holds {parts[0]}/")
    return path


def golden(name: str) -> dict[str, npt.NDArray[Any]]:
    """Every array of `<name>.npz`; skips the calling test where the folder does not exist."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden values at {GOLDEN}; set CTVR_SHARED to the folder that holds golden/")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
