# Every target sets up what it needs: .venv is made once and refreshed when pyproject.toml changes.
PYTHON ?= python3
PY := .venv/bin/python
OUT ?= results

.DEFAULT_GOAL := help
.PHONY: help setup test lint

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed  ## create .venv and install what is missing
.venv/.installed: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: lint  ## lint, types, import contracts and all tests
	$(PY) -m pytest -n 2

lint: setup  ## ruff, mypy, import-linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m importlinter.cli lint || .venv/bin/lint-imports
