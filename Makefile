# Every target sets up what it needs: .venv is made once and refreshed when pyproject.toml changes.
PYTHON ?= python3
PY := .venv/bin/python
CUB ?= $(or $(SFAM_BENCH_DATA),data)/CUB_200_2011

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cub bench bench-gpu test lint

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed  ## create .venv and install what is missing
.venv/.installed: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## train, explain and score on the planted set (results/demo/)
	rm -rf results/demo
	$(PY) experiments/train.py experiment=planted run_dir=results/demo/train
	$(PY) experiments/intervene.py experiment=planted model.checkpoint=results/demo/train/model.safetensors run_dir=results/demo/intervention
	$(PY) experiments/evaluate.py experiment=planted model.checkpoint=results/demo/train/model.safetensors maps.save=true run_dir=results/demo/evaluate
	$(PY) experiments/report.py 'runs=[results/demo/evaluate]' out=results/demo/report

demo-cub: setup  ## the same on real birds, frozen and fine-tuned: make demo-cub CUB=path/to/CUB_200_2011
	rm -rf results/demo-cub
	$(PY) experiments/embed.py experiment=cub dataset.root=$(CUB) split=all
	$(PY) experiments/evaluate.py experiment=cub dataset.root=$(CUB) model.name='lite0 frozen' maps.save=true run_dir=results/demo-cub/frozen
	$(PY) experiments/train.py experiment=cub dataset.root=$(CUB) run_dir=results/demo-cub/train
	$(PY) experiments/evaluate.py experiment=cub dataset.root=$(CUB) model.name='lite0 fine-tuned' model.checkpoint=results/demo-cub/train/model.safetensors maps.save=true run_dir=results/demo-cub/fine-tuned
	$(PY) experiments/report.py 'runs=[results/demo-cub/frozen,results/demo-cub/fine-tuned]' out=results/demo-cub/report

bench: .venv/.bench  ## speed against the peers, 12 minutes: make bench [PHOTOS=class folders] [RISE=checkout] [CHECK=1]
	$(PY) -m benchmarks.bench $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(RISE),--rise $(RISE)) $(if $(CHECK),--check)
.venv/.bench: .venv/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

bench-gpu: setup  ## the engine against the GPU's own rate
	$(PY) -m benchmarks.gpu $(if $(PHOTOS),--photos $(PHOTOS))

data-%: setup  ## download cub, cars196 or sop: make data-cub
	$(PY) experiments/data.py download=$*

test: lint  ## lint, types, import contracts and all tests
	$(PY) -m pytest -n 2

lint: setup  ## ruff, mypy, import-linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
