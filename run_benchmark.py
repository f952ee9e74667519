"""Continual text-to-video retrieval on precomputed features: `python run_benchmark.py --help`."""

from bench.cli import main

if __name__ == "__main__":
    main()
