# Everything sets itself up: `make demo` and `make test` need only Python >= 3.11 and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-slow lint format clean

help:  ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY)  ## The whole method from scratch, about ten minutes on two CPU cores.
	$(BIN)/python -m ttm_jax.demo --workdir runs/demo

test: $(READY)  ## The tests.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m 'not slow'

test-slow: $(READY)  ## The tests that train for minutes.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slow

lint: $(READY)  ## Style, format, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Mends style and format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Removes the environment and caches, not the runs.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python >= 3.11 is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
