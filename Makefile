# make demo   the laptop campaign, from nothing to a release
# make test   all tests, physics included; make test-fast for the quick ones
.PHONY: demo test test-fast lint lock clean environment
SHELL := /bin/bash
CORES ?= $(shell nproc 2>/dev/null || echo 2)
CONFIG ?= config/config.yaml
BIN := .venv/bin
# Engines are one process a core; threaded BLAS below that only costs time.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

environment:
	@./setup-environment.sh

demo: environment
	@$(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)
	@$(BIN)/hullforge summary $(CONFIG)

test: environment
	$(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder --durations=15

test-fast: environment
	$(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder -m "not gpaw and not slow and not campaign"

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

# Rewrite the lock file from what is installed in .venv.
lock: environment
	@echo "# Exact versions of everything, made by: make lock. No download addresses: pip takes each from its own index." > requirements.lock.new
	@$(BIN)/pip freeze --exclude-editable | grep -v '^#' | sed -e 's/ @ file.*//' -e 's/+cpu$$//' | sort -f >> requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv build src/*.egg-info
