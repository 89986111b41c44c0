# Every target sets up its environment; `make demo` and `make test` need Python >= 3.11 and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Stamps of the environment: the package's own dependencies, those of the tests (PyTorch too), and
# those of the documentation.
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs
# The TPU and GPU compilers have folders of their own: where they are installed, JAX looks for a chip.
TPU := .venv-aot
GPU := .venv-aot-gpu
# What looks for known vulnerabilities has an environment of its own, too.
AUDIT := .venv-audit
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo showcase test test-slow test-browser test-aot test-aot-gpu test-aot-plan lint format docs audit clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(CORE)  ## Train and evaluate both stages from scratch, about ten minutes on two CPU cores.
	$(BIN)/python -m ttm_jax.demo --workdir runs/demo

showcase: $(CORE)  ## Train larger networks, about a day on two CPU cores; stops and continues.
	$(BIN)/python -m ttm_jax.showcase

test: $(DEV)  ## Run the tests.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow and not aot and not browser'

test-slow: $(DEV)  ## Run the tests that train for minutes.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slow

test-browser: $(DEV)  ## Run studio and reports in a browser; `playwright install chromium` brings one.
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m browser tests/browser

test-aot: $(DEV) $(TPU)/.ready  ## Compile the kernels for TPUs ahead of time, about 3 minutes.
	PYTHONPATH=$(TPU) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m aot tests/aot/test_tpu.py

test-aot-gpu: $(DEV) $(GPU)/.ready  ## Compile the kernels for H100s ahead of time, about 2 minutes.
	PYTHONPATH=$(GPU) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m aot tests/aot/test_h100.py

test-aot-plan: $(DEV) $(TPU)/.ready  ## Compile train steps for TPU pods ahead of time, about 20 minutes.
	PYTHONPATH=$(TPU) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m aot tests/aot/test_plan.py

lint: $(DEV)  ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)  ## Fix style and format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS)  ## Build the documentation into site/; a broken link or a missing page fails.
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/python -m mkdocs build --strict --quiet

audit: $(DEV) $(AUDIT)/bin/pip-audit  ## Looks up known vulnerabilities of what is installed, on PyPI.
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement $(AUDIT)/installed.txt

clean:  ## Remove the environment, caches and the site; keep runs.
	rm -rf $(VENV) $(TPU) $(GPU) $(AUDIT) site .mypy_cache .ruff_cache .pytest_cache

$(CORE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python >= 3.11 is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(DEV): $(CORE)
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(DOCS): $(CORE)
	$(INSTALL) --editable '.[docs]'
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
