"""The small simulated store that tests share: that of the contract's checks."""

from bench.trial import small_store, small_stream

__all__ = ["small_store", "small_stream"]
