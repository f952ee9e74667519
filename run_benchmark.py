"""Continual text-to-video retrieval on precomputed features: `python run_benchmark.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # this clone, whatever is installed

if __name__ == "__main__":
    from ctvr_bench.bench.cli.start import main

    main()
