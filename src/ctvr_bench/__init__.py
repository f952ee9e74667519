"""A benchmark suite for continual text-to-video retrieval on precomputed features."""
