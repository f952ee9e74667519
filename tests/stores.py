"""The small simulated store that tests share: that of the contract's checks."""

from ctvr_bench.bench.authoring.trial import small_store, small_stream

__all__ = ["small_store", "small_stream"]
