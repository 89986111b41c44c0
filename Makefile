# Everything sets itself up: `make demo` and `make test` need only Python >= 3.11 and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What the package itself needs, and what its tests need besides (PyTorch among it).
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
# The compilers for TPUs and for GPUs, apart: where they are installed JAX looks for such a chip.
TPU := .venv-aot
GPU := .venv-aot-gpu
# What looks for known vulnerabilities has an environment of its own, too.
AUDIT := .venv-audit
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-slow test-aot test-aot-gpu test-aot-plan lint format audit clean

help:  ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(CORE)  ## The whole method from scratch, about ten minutes on two CPU cores.
	$(BIN)/python -m ttm_jax.demo --workdir runs/demo

test: $(DEV)  ## The tests.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow and not aot'

test-slow: $(DEV)  ## The tests that train for minutes.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slow

test-aot: $(DEV) $(TPU)/.ready  ## Compiles the kernels for TPUs that are not there, about 3 minutes.
	PYTHONPATH=$(TPU) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m aot tests/aot/test_tpu.py

test-aot-gpu: $(DEV) $(GPU)/.ready  ## Compiles the kernels for H100s that are not there, about 2 minutes.
	PYTHONPATH=$(GPU) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m aot tests/aot/test_h100.py

test-aot-plan: $(DEV) $(TPU)/.ready  ## Compiles train steps for TPU pods that are not there, about 20 minutes.
	PYTHONPATH=$(TPU) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m aot tests/aot/test_plan.py

lint: $(DEV)  ## Style, format, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)  ## Mends style and format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: $(DEV) $(AUDIT)/bin/pip-audit  ## Looks up known vulnerabilities of what is installed, on PyPI.
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement $(AUDIT)/installed.txt

clean:  ## Removes the environment and caches, not the runs.
	rm -rf $(VENV) $(TPU) $(GPU) $(AUDIT) .mypy_cache .ruff_cache .pytest_cache

$(CORE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python >= 3.11 is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(DEV): $(CORE)
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(AUDIT)/bin/pip-audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1

$(TPU)/.ready: $(CORE)
	$(INSTALL) --no-deps --upgrade --target $(TPU) libtpu
	@touch $@

$(GPU)/.ready: $(CORE)
	$(INSTALL) --no-deps --upgrade --target $(GPU) jax-cuda12-plugin jax-cuda12-pjrt \
	  nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-cupti-cu12 nvidia-cuda-nvdisasm
	@touch $@
