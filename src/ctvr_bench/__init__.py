"""A benchmark suite for continual text-to-video retrieval on precomputed features.

    import ctvr_bench
    found = ctvr_bench.run(["zero_shot", "finetune", MyMethod], store="moving-shapes:0", seeds=3)
    found.to_dataframe()

Everything loads when it is first asked for, so that the import itself takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctvr_bench.bench.api.results import Results as Results
    from ctvr_bench.bench.api.results import load as load
    from ctvr_bench.bench.api.running import make_stream as make_stream
    from ctvr_bench.bench.api.running import open_store as open_store
    from ctvr_bench.bench.api.running import register as register
    from ctvr_bench.bench.api.running import run as run
    from ctvr_bench.features.errors import InputError as InputError

_HOMES = {
    "InputError": "features.errors",
    "Results": "bench.api.results",
    "load": "bench.api.results",
    "make_stream": "bench.api.running",
    "open_store": "bench.api.running",
    "register": "bench.api.running",
    "run": "bench.api.running",
}
__all__ = ["InputError", "Results", "load", "make_stream", "open_store", "register", "run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.features.store").tool_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
