"""A pretend GPU: tensors that say they are on 'gpu:0', hold real values on the CPU, refuse to mix with CPU tensors as
CUDA does, and count every wait of the host, also for what is sent from memory that is not pinned. It runs unmodified
code.

    with Pretend() as gpu:
        x = torch.randn(3, 4).to("gpu:0")
        x @ torch.randn(4, 2)  # raises MixingError, as CUDA would
    gpu.waits  # Counter of (kind, file, line)

What it cannot show: missing kernels, sums in another order, speed.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend(rename="gpu")
_WAITS: collections.Counter[tuple[str, str, int]] = collections.Counter()
_tensor = torch.tensor


class MixingError(RuntimeError):
    """Tensors of two devices in one operation."""


class OnGpu(torch.Tensor):
    """A tensor that claims the device and holds its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type[OnGpu], held: torch.Tensor, requires_grad: bool = False) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("gpu:0"),
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, values: OnGpu) -> None:
        self.held = values.held  # as with real tensors: what was a view of something becomes one of something else

    def tolist(self) -> Any:
        _wait("tolist")
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        with torch.no_grad():
            copied: torch.Tensor = OnGpu(self.detach().held.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        elif self.requires_grad:
            copied.requires_grad_()
        memo[id(self)] = copied
        return copied


def _where() -> tuple[str, int]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and "/torch/" not in name:
            return Path(name).name, frame.f_lineno
        frame = frame.f_back
    return "?", 0


def _wait(kind: str) -> None:
    _WAITS[(kind, *_where())] += 1


_A = torch.ops.aten
_CPU_INDEX = {_A.index.Tensor, _A.index_put_.default, _A.index_put.default, _A._index_put_impl_.default}
_COPY = {_A._to_copy.default, _A.copy_.default, _A.copy.default}
_WAITING = {
    _A._local_scalar_dense.default: "item",
    _A.nonzero.default: "nonzero",
    _A._unique2.default: "unique",
    _A.unique_dim.default: "unique",
    _A.equal.default: "equal",
    _A.is_nonzero.default: "bool",
}


def _refuse(func: Any, args: Any, on_gpu: list[Any], plain: list[Any], generators: list[Any], *, to_gpu: bool) -> None:
    if generators and (to_gpu or on_gpu):
        raise MixingError(f"{func}: a CPU generator for a GPU tensor at {_where()}")
    if on_gpu and func not in _COPY:
        bad = [x for x in plain if x.dim() > 0]
        if bad and func not in _CPU_INDEX:
            raise MixingError(f"{func}: GPU with CPU tensors {[tuple(x.shape) for x in bad]} at {_where()}")
        if bad:
            if not isinstance(args[0], OnGpu):
                raise MixingError(f"{func}: a CPU tensor indexed by a GPU one at {_where()}")
            if func is not _A.index.Tensor and not isinstance(args[2], OnGpu) and args[2].dim() > 0:
                raise MixingError(f"{func}: CPU values for a GPU tensor at {_where()}")
            _wait("CPU index of a GPU tensor")


def _leaves(value: Any) -> Iterator[Any]:
    """What stands in lists, tuples and dicts, the only ones in what operations take and return."""
    if isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def _changed(change: Callable[[Any], Any], value: Any) -> Any:
    """The same lists, tuples and dicts with each of their leaves changed; torch's tree_map takes ten times as long."""
    if isinstance(value, dict):
        return {name: _changed(change, part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_changed(change, part) for part in value])
    return change(value)


def _pinned(values: torch.Tensor) -> torch.Tensor:
    """A copy that says it lies in memory from which a GPU takes it while the host goes on."""
    copied = values.clone()
    copied.pretends_to_be_pinned = True  # type: ignore[attr-defined]
    return copied


def _is_pinned(values: Any) -> bool:
    return bool(getattr(values, "pretends_to_be_pinned", False))


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = list(_leaves((args, kwargs)))
    on_gpu = [x for x in flat if isinstance(x, OnGpu)]
    plain = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, OnGpu)]
    device = kwargs.get("device")
    to_gpu = device is not None and torch.device(device).type == "gpu"
    to_cpu = device is not None and torch.device(device).type == "cpu"
    _refuse(func, args, on_gpu, plain, [x for x in flat if isinstance(x, torch.Generator)], to_gpu=to_gpu)
    if on_gpu and func in _WAITING:
        _wait(_WAITING[func])
    if (
        func is _A.index.Tensor
        and on_gpu
        and any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1] if i is not None)
    ):
        _wait("bool-mask index")
    if func is _A.is_pinned.default:
        return any(map(_is_pinned, flat))
    if func is _A._pin_memory.default:
        return _pinned(args[0])
    if func is _A._to_copy.default:
        if on_gpu and to_cpu:
            _wait("to cpu")
        if to_gpu and not on_gpu and not (kwargs.get("non_blocking") and _is_pinned(args[0])):
            _wait("to gpu")
    elif func in _COPY and isinstance(args[1], OnGpu) and not isinstance(args[0], OnGpu):
        _wait("copy_ to the host")

    def inner(x: Any) -> Any:
        if isinstance(x, OnGpu):
            return x.held
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == "gpu" else x

    a, k = _changed(inner, (args, kwargs))
    if to_gpu:
        k["device"] = torch.device("cpu")
    if k.get("pin_memory"):
        k["pin_memory"] = False
    out = func(*a, **k)
    if func is _A.copy_.default:
        return args[0]
    owner = {id(x.held): x for x in on_gpu}
    wrap = (bool(on_gpu) or to_gpu) and not (func is _A._to_copy.default and to_cpu)

    def outer(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in owner:
            return owner[id(x)]
        return OnGpu(x) if wrap and not isinstance(x, OnGpu) else x

    result = _changed(outer, out)
    name = func._schema.name
    if name.startswith("aten::") and name.endswith("_") and args and isinstance(args[0], OnGpu):
        return args[0]
    return result


class Pretend(TorchDispatchMode):
    """In force while entered. waits: how often the host waited, by kind, file and line."""

    def __enter__(self) -> Pretend:
        self.waits = _WAITS
        _WAITS.clear()
        torch.tensor = _made
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.tensor = _tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    made = _tensor(data, *args, **kwargs)
    return made if device is None or torch.device(device).type == "cpu" else made.to(device)
