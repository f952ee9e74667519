"""Options that say where runs are made, of every command that makes some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Executor = Annotated[
    str | None, typer.Option(help="Where runs are made: local processes (default), or dask, as docs/cluster.md says.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="With dask: address or file of the scheduler (default: a cluster of this machine's own)."),
]
Stage = Annotated[Path | None, typer.Option(help="With dask: folder on each node's own disk to copy the store to.")]
