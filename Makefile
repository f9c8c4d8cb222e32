# `make demo` and `make test` do all the set-up a fresh machine needs: Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
# Processes that share the tests, a file at a time.
JOBS ?= auto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Small models on one thread: two would spin on each other and take several times the CPU.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint install clean

demo: $(STAMP)
	$(BIN)/nextlens belief --process mess3 --out results/belief-mess3

test: lint
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[test]'
	mkdir -p $(VENV)/links/nextlens
	for room in models probes analyses; do ln -sfn ../../../$$room $(VENV)/links/nextlens/$$room; done
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
