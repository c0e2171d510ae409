# `make repro` runs the pipeline, `make test` the checks; both set up .venv first. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Nothing here needs the hub, and nothing reports home.
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1

.PHONY: help repro ablation test test-slow test-envs lint types audit env sample lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: $(VENV)/.installed  ## run the pipeline (dvc repro)
	dvc repro

ablation: $(VENV)/.installed  ## which context helps, with and without the KL term (ablation.yaml) -> report/ablation.html
	python -m reporting.ablation

test: $(VENV)/.installed-dev lint types  ## lint, types and tests, in minutes
	pytest -m "not slow" -rs -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.installed-dev  ## the slow tests
	pytest -m slow

test-envs: $(VENV)/.installed-dev  ## what runs in the separate environments that are built, the slow tests too
	pytest -rs tests/envs tests/ner/interop/flair/test_bridge.py tests/ner/interop/flair/test_training.py

lint: $(VENV)/.installed-dev  ## style
	ruff check .
	ruff format --check .

types: $(VENV)/.installed-dev  ## type checks
	mypy

# --strict: a pin that cannot be looked up is not a pin without known faults.
audit: $(VENV)/.installed-dev  ## known vulnerabilities of what requirements.lock pins (asks the package index)
	pip-audit --strict --disable-pip --no-deps --progress-spinner off -r requirements.lock

env: $(VENV)/.installed-dev  ## make .venv with everything in it

sample: $(VENV)/.installed  ## rebuild the sample data set (checkpoints: see sample/README.md)
	python -m sample.dataset

$(VENV)/.installed: requirements.lock requirements-cuda.lock install.sh
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Sightread needs Python 3.11 or later, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	sh install.sh $(BIN)/python
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	PIP_USE_PEP517=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dev.lock
	touch $@

lock:  ## renew requirements*.lock from requirements*.txt, with the newest versions
	sh lock.sh --upgrade

# Data sets may be below data/, taggers of your own below models/, and DVC's cache may hold the only copy of either.
clean:  ## delete what the pipeline wrote (the store of extraction results and DVC's cache stay)
	rm -rf data/checked data/posts data/images.jsonl data/contexts data/features data/views data/predictions
	rm -rf models/tagger metrics plots report dvclive dvc.lock
	rmdir data models 2>/dev/null || true
