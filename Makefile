# Commands for people. They need make and Python 3.11 or newer with venv; everything else is installed into .venv.
#
#   PYTHON=python3.12   the Python to make .venv with
#   TORCH_INDEX=URL     a package index with CPU builds of torch and torchvision, for machines without a GPU
#   PORT=8001           where `make demo` serves
#   ARGS="-k beam"      more arguments for pytest or the benchmarks

PYTHON ?= python3
TORCH_INDEX ?=
PORT ?= 8000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCHMARKS := descent indexing locate training

# What pip downloads and what it takes on disk, measured on Linux x86-64 with the versions of constraints.txt.
ifneq ($(TORCH_INDEX),)
SIZE := CPU builds of PyTorch: about 1.2 GB to download, 2.6 GB on disk
else ifeq ($(shell uname -sm),Linux x86_64)
SIZE := PyTorch and FAISS with CUDA: about 4.3 GB to download, 8.6 GB on disk \
	(no GPU? make TORCH_INDEX=<index of CPU builds of PyTorch> takes about 1.2 GB instead)
else
SIZE := From 0.5 GB to download without CUDA to 4 GB with it (not measured for $(shell uname -sm))
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check bench bench-smoke accuracy clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s  %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  with PYTHON=..., TORCH_INDEX=..., PORT=... or ARGS=...: see the head of the Makefile'

setup: $(STAMP) ## make .venv and install everything into it

demo: $(STAMP) ## build the built-in Earth's index, locate the samples, serve on 127.0.0.1:8000
	@$(BIN)/tilebeam demo --port $(PORT)

test: $(STAMP) ## run every test
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## lint, formatting, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tile_cache -p retrieval -p indexer -p service -m tilebeam
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_packaging.py

bench: $(STAMP) ## measure the descent, indexing, a whole answer and training; tables and JSON
	@for name in $(BENCHMARKS); do printf "\n%s\n" $$name; $(BIN)/python -m benchmarks.$$name $(ARGS) || exit; done

bench-smoke: $(STAMP) ## run every benchmark in its smallest form, to see that it works
	@$(BIN)/python -m benchmarks.smoke $(ARGS)

accuracy: $(STAMP) ## measure the built-in model: errors, calibration, circles
	@$(BIN)/python -m benchmarks.accuracy $(ARGS)

clean: ## remove .venv and caches; indexes and fetched tiles stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp is written last, so that the next call resumes an installation that was interrupted.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo 'make: there is no $(PYTHON); install Python 3.11 or newer, or name yours: make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $$($(PYTHON) -V) is too old; Tilebeam needs 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Installing into $(VENV). $(strip $(SIZE)).'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt --upgrade pip setuptools
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --no-deps --index-url $(TORCH_INDEX) -c constraints.txt torch torchvision
endif
	$(BIN)/python -m pip install -c constraints.txt --editable '.[dev]'
	@touch $@
