"""Numbers that the host draws or counts, on the device that computes with them."""

from __future__ import annotations

from torch import Tensor, device


def sent(values: Tensor, where: device) -> Tensor:
    """The same values on a device; for a GPU from pinned memory, so that the host need not wait for them to arrive."""
    if where.type == "cpu" or values.device.type != "cpu":
        return values.to(where)
    return values.pin_memory().to(where, non_blocking=True)
