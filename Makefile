# One word runs each thing; CI runs the same words.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-cluster check bench bench-peers docs tutorial release rates scale gpu mutants soak wheel-twice fuzz lock floor licences audit format clean

run: $(VENV)/ready
	$(BIN)/python run_benchmark.py

test: $(VENV)/ready-extract
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

check: $(VENV)/ready-extract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/ready-extract
	$(BIN)/python -m pytest tests/speed --benchmark-enable --benchmark-only --benchmark-columns=min,median,rounds --benchmark-sort=name -q

# the same training in Avalanche, in a bare PyTorch loop and here, in an environment of its own (6 GB where torch is CUDA's)
bench-peers: .venv-peers/ready
	PYTHONPATH=src:tests OMP_NUM_THREADS=1 .venv-peers/bin/python -m peers

# the docs site, build/site/index.html: API from docstrings, methods from their cards, every link checked
docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# builds and checks the wheel and says how to publish it; .ci/release --try without the tests
release: $(VENV)/ready-extract
	PYTHON=$(BIN)/python .ci/release

# executes docs/tutorial.ipynb again and keeps what it shows
tutorial: $(VENV)/ready-docs
	set -e; place=$$(mktemp -d); cp docs/tutorial.ipynb $$place; \
	$(BIN)/jupyter-nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	    --ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.clear_notebook_metadata=False $$place/tutorial.ipynb; \
	cp $$place/tutorial.ipynb docs/; rm -r $$place

# error rates, power and coverage of docs/statistics.md, about an hour; goes on from error_rates.json
rates: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.speed.error_rates 400

# kills workers, nodes, the scheduler and the driver of a suite on a Dask cluster of processes, and measures what runs cost
test-cluster: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cluster -q -s

# SCALE=videos x queries
scale: $(VENV)/ready
	SCALE=$(or $(SCALE),1000000x10000) $(BIN)/python -m pytest tests/speed/test_scale.py tests/speed/test_growth.py -q -s

# on a machine with a GPU: finds faults, then measures; results/gpu/<card>.json
gpu: $(VENV)/ready-extract
	$(BIN)/python -m tests.gpu

# plants faults one at a time and says which the tests do not find; JOBS at a time, ONLY="ewc si" some of them
mutants: $(VENV)/ready-extract
	$(BIN)/python tests/mutants.py --jobs $(or $(JOBS),1) $(ONLY)

# kills, damages and an hour of bytes for every reader (atheris: Linux, CPython up to 3.13), some hours of a core in all;
# KILLS=50 DAMAGES=200 MINUTES=5 for a look
soak: $(VENV)/ready-extract
	-$(BIN)/python -m pip install --disable-pip-version-check -q atheris
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak \
		--kills $(or $(KILLS),500) --damages $(or $(DAMAGES),2000) --minutes $(or $(MINUTES),60)

# readers under atheris, ten minutes of a core each (Linux, CPython up to 3.13); READERS="pickle csv" some of them
fuzz: $(VENV)/ready-extract
	$(BIN)/python -m pip install --disable-pip-version-check -q atheris
	for reader in $(or $(READERS),$$($(BIN)/python -m tests.soak.coverage_guided)); do \
		$(BIN)/python -m tests.soak.coverage_guided $$reader build/fuzz $(or $(SECONDS_EACH),600) || exit 1; done

# builds the wheel of the last commit twice, in two folders, and compares them byte by byte
wheel-twice: $(VENV)/ready
	rm -rf build/twice
	for n in 1 2; do mkdir -p build/twice/$$n && git archive HEAD | tar -x -C build/twice/$$n && \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --disable-pip-version-check -q --no-deps \
		--wheel-dir build/twice/$$n build/twice/$$n || exit 1; done
	cmp build/twice/1/*.whl build/twice/2/*.whl && sha256sum build/twice/1/*.whl

# requirements-dev.lock: everything for development, every file by its SHA-256
lock: $(VENV)/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q uv
	head -2 requirements-dev.lock > requirements-dev.new
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra extract --extra docs -c constraints.txt --universal \
		--python-version 3.11.5 --generate-hashes --no-header --no-annotate --no-emit-index-url >> requirements-dev.new
	mv requirements-dev.new requirements-dev.lock

# the lowest versions that pyproject.toml allows, in an environment of their own, with tests that need no extra
floor:
	$(PYTHON) -m venv $(VENV)-floor
	$(VENV)-floor/bin/python -m pip install --disable-pip-version-check -q -c constraints-floor.txt -e . $(FLOOR_TOOLS)
	OMP_NUM_THREADS=1 $(VENV)-floor/bin/python -m pytest -q -W default $(FLOOR_TESTS)
FLOOR_TOOLS = "pytest>=8.4" "pytest-benchmark>=4" "pytest-xdist>=3.5" "hypothesis>=6.100"
FLOOR_TESTS = tests/features/test_arrays.py tests/features/test_hostile_files.py tests/features/test_store.py \
	tests/features/test_video.py tests/features/test_extract.py tests/features/worlds/test_build.py \
	tests/bench/cli/test_start.py tests/bench/test_metrics.py tests/bench/run/test_runner.py

# docs/licences.md, from what is installed
licences: $(VENV)/ready-docs
	$(BIN)/python -m tests.supply licences

# whether a weakness is known of what requirements-dev.lock names
audit: $(VENV)/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q pip-audit
	$(BIN)/python -m tests.supply audit

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/ready-extract: $(VENV)/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev,extract]"
	touch $@

$(VENV)/ready-docs: $(VENV)/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev,docs]"
	touch $@

.venv-peers/ready: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check -q -e . avalanche-lib==0.6.0
	touch $@

clean:
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .hypothesis .benchmarks *.egg-info
