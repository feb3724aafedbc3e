# The project's verbs. Each sets up what it needs, in .venv, from the pinned constraints.txt.
VENV := .venv
PYTHON := $(VENV)/bin/python
OLDEST := .venv-oldest
OUT := runs/pendulum
SEED := 0
BENCHMARKS := batched throughput callbacks uneven_envs scaling hogwild cnn recurrent memory memory_tasks start_up kernels results equal_time ablation cluster

# What is most likely to break with other versions: the contract with SB3, torch, Gymnasium and numba.
OLDEST_TESTS := identity fused learn save_load environments normalization batched recurrent

.PHONY: train test test-slow test-all test-oldest conformance lint type doc bench soak clean

train: $(VENV)/installed
	$(PYTHON) examples/pendulum.py --seed $(SEED) --out $(OUT)

# Quick tests, slow tests, and both, in one process per core.
test: $(VENV)/installed
	$(PYTHON) -m pytest -n auto --dist worksteal -m 'not slow'

test-slow: $(VENV)/installed
	$(PYTHON) -m pytest -n auto --dist worksteal -m slow

test-all: $(VENV)/installed
	$(PYTHON) -m pytest -n auto --dist worksteal

# Some quick tests with the oldest versions that setup.cfg admits. numba's cache does not tell its versions apart.
test-oldest: $(OLDEST)/installed
	NUMBA_CACHE_DIR=$(CURDIR)/$(OLDEST)/numba $(OLDEST)/bin/python -m pytest -n auto --dist worksteal -m 'not slow' $(OLDEST_TESTS:%=tests/test_%.py)

conformance: $(VENV)/installed
	$(PYTHON) tests/conformance/run.py

lint: $(VENV)/installed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

type: $(VENV)/installed
	$(PYTHON) -m mypy

doc: $(VENV)/installed
	$(PYTHON) -m sphinx -W -b html docs docs/_build/html

bench: $(VENV)/installed
	set -e; for name in $(BENCHMARKS); do $(PYTHON) benchmarks/$$name.py; done

# Hours of faults, and exceptions at every line of a run.
soak: $(VENV)/installed
	$(PYTHON) -m pytest -m exhaustive -o timeout=0 -o faulthandler_timeout=0
	$(PYTHON) tests/soak/run.py

$(VENV)/installed: setup.cfg constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[extra,compare,recurrent,atari,zoo,ray,tune,tests,integrations,conformance,benchmarks,lint,docs]'
	touch $@

$(OLDEST)/installed: setup.cfg constraints-oldest.txt
	python3 -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[extra,recurrent,tests]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) docs/_build .conformance
