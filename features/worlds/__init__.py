"""Moving shapes: rendered videos, captions and a small trained encoder; behind the embedded default store."""
