"""Where the program begins: signals are heard before anything heavy loads, and every end has its exit code.

0 done, 1 a check failed or a run did not finish well, 2 the input was wrong or something cannot be written, 130 stopped
by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys

from ctvr_bench.bench.cli.interrupt import Stopped, stoppable, what_is_kept
from ctvr_bench.features.errors import InputError, one_line

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE", "1"
"""Of PyTorch, read with its first tensor: those of 2 MB and more lie in large pages, and are the system's again when
they are freed. What a fused evaluation gains by it: results/PERFORMANCE.md, memory of a run."""

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO})
_NO_NAME = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR})


def main() -> None:
    """Entry point: one line and exit code 2 for anything a user typed or gave, or a disk that takes no more."""
    if os.name != "posix":
        _say("error: this suite needs Linux or macOS; on Windows run it inside WSL")
        sys.exit(2)
    os.environ["MPLBACKEND"] = "agg"  # figures are files; a notebook's backend may not even be installed here
    os.environ.setdefault(*LARGE_PAGES)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows no arrows gets question marks
    try:
        with stoppable():
            from ctvr_bench.bench.cli.app import app

            app()
    except Stopped as stop:
        _say(f"stopped; {what_is_kept(sys.argv[1:])}")
        sys.exit(128 + stop.number)
    except InputError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:  # whoever read has gone, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the process ends
        sys.exit(141)
    except OSError as error:
        if error.errno not in _UNWRITABLE | _NO_NAME:
            raise
        next_step = "choose another name" if error.errno in _NO_NAME else "make room there, or choose a writable folder"
        _say(f"error: {error.filename2 or error.filename or 'a file'}: {error.strerror}; {next_step}")
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # torch says it so
            raise
        _say("error: out of memory; give fewer --jobs, or a smaller input")
        sys.exit(2)


def _say(message: str) -> None:
    print(one_line(message), file=sys.stderr, flush=True)
