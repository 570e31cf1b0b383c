# Every target sets up what it needs: .venv is made once and refreshed when pyproject.toml changes.
PYTHON ?= python3
PY := .venv/bin/python
FIRST := sfam similarity_decomposition
EXPLAINERS := $(FIRST) $(filter-out $(FIRST),$(basename $(notdir $(wildcard conf/explainer/*.yaml))))
comma := ,
empty :=
METHODS := [$(subst $(empty) $(empty),$(comma),$(strip $(EXPLAINERS)))]
CUB ?= $(or $(SFAM_BENCH_DATA),data)/CUB_200_2011

.DEFAULT_GOAL := help
.PHONY: help figures paper keep setup demo demo-cub methods metrics table-methods table-methods-cub table-choices table-choices-cub table-metrics table-metrics-cub tune part-agreement sweep differential bench coverage marking bench-gpu fuzz cluster-test docs docs-pictures test lint

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

methods: setup  ## print what every method is and costs, and write docs/methods.md; on CUB where it is
	$(PY) experiments/methods.py experiment=$(if $(wildcard $(CUB)),cub dataset.root=$(CUB),planted) 'explainer=$(METHODS)'

METRICS := [$(subst $(empty) $(empty),$(comma),$(basename $(notdir $(wildcard conf/metric/*.yaml))))]

metrics: setup  ## print what every metric measures and costs, and write docs/metrics.md
	$(PY) experiments/metrics.py model=lite0 'metric=$(METRICS)'

# The planted set under every similarity and three kinds of embedder: pooling and head of each model
EMBEDDERS := gap-none gap-linear gem-none
SIMILARITIES := cosine negative_euclidean
part = $(word $(1),$(subst -, ,$(2)))

table-methods: setup  ## every method on the planted set, by similarity, pooling and head (results/methods/)
	rm -rf results/methods
	$(foreach e,$(EMBEDDERS),$(PY) experiments/train.py experiment=planted pooling=$(call part,1,$e) head=$(call part,2,$e) run_dir=results/methods/train/$e &&) true
	$(foreach e,$(EMBEDDERS),$(foreach s,$(SIMILARITIES),$(PY) experiments/evaluate.py experiment=planted_methods pooling=$(call part,1,$e) head=$(call part,2,$e) similarity=$s model.name=$e-$s model.checkpoint=results/methods/train/$e/model.safetensors 'explainer=$(METHODS)' run_dir=results/methods/$e-$s &&)) true
	$(PY) experiments/report.py 'runs=[$(subst $(empty) $(empty),$(comma),$(foreach e,$(EMBEDDERS),$(foreach s,$(SIMILARITIES),results/methods/$e-$s)))]' out=results/methods/report

table-methods-cub: setup  ## every method on real birds, with the model that make demo-cub trains (results/methods-cub/)
	rm -rf results/methods-cub
	$(PY) experiments/train.py experiment=cub dataset.root=$(CUB) run_dir=results/methods-cub/train
	$(PY) experiments/evaluate.py experiment=cub_methods dataset.root=$(CUB) model.name='lite0 fine-tuned' model.checkpoint=results/methods-cub/train/model.safetensors 'explainer=$(METHODS)' maps.save=true run_dir=results/methods-cub/evaluate
	$(PY) experiments/report.py 'runs=[results/methods-cub/evaluate]' out=results/methods-cub/report

table-choices: setup  ## SFAM along gamma, and what its abstract leaves open, on the planted set (results/choices/)
	rm -rf results/choices
	$(PY) experiments/train.py experiment=planted head=linear run_dir=results/choices/train
	$(PY) experiments/evaluate.py experiment=planted_methods variants=gamma head=linear model.name=gamma model.checkpoint=results/choices/train/model.safetensors run_dir=results/choices/gamma
	$(foreach s,$(SIMILARITIES),$(PY) experiments/evaluate.py experiment=planted_methods variants=choices head=linear similarity=$s model.name=choices-$s model.checkpoint=results/choices/train/model.safetensors run_dir=results/choices/$s &&) true
	$(PY) experiments/report.py 'runs=[results/choices/gamma,results/choices/cosine,results/choices/negative_euclidean]' out=results/choices/report

table-choices-cub: setup  ## the same on real birds, fine-tuned (results/choices-cub/)
	rm -rf results/choices-cub
	$(PY) experiments/train.py experiment=cub dataset.root=$(CUB) run_dir=results/choices-cub/train
	$(PY) experiments/evaluate.py experiment=cub_methods variants=gamma dataset.root=$(CUB) model.name=gamma model.checkpoint=results/choices-cub/train/model.safetensors run_dir=results/choices-cub/gamma
	$(foreach s,$(SIMILARITIES),$(PY) experiments/evaluate.py experiment=cub_methods variants=choices dataset.root=$(CUB) similarity=$s model.name=choices-$s model.checkpoint=results/choices-cub/train/model.safetensors run_dir=results/choices-cub/$s &&) true
	$(PY) experiments/report.py 'runs=[results/choices-cub/gamma,results/choices-cub/cosine,results/choices-cub/negative_euclidean]' out=results/choices-cub/report

# Without methods that take passes of their own, which cost more than all metrics; QUICK='$(METHODS)' has them all
QUICK ?= [sfam,similarity_decomposition,cam,fam,gam,grad_cam,grad_cam_pp,layer_cam,eigen_grad_cam,zhu,embedding_cam,input_x_gradient,weight_transfer,lafam,centre,chance]

table-metrics: setup  ## every metric, and what the metrics are worth, on the planted set (results/metrics-planted/)
	rm -rf results/metrics-planted
	$(PY) experiments/train.py experiment=planted run_dir=results/metrics-planted/train
	$(PY) experiments/evaluate.py experiment=planted_metrics model.checkpoint=results/metrics-planted/train/model.safetensors 'explainer=$(QUICK)' run_dir=results/metrics-planted/evaluate
	$(PY) experiments/report.py 'runs=[results/metrics-planted/evaluate]' out=results/metrics-planted/report

table-metrics-cub: setup  ## the same on real birds, fine-tuned (results/metrics-cub/)
	rm -rf results/metrics-cub
	$(PY) experiments/train.py experiment=cub dataset.root=$(CUB) run_dir=results/metrics-cub/train
	$(PY) experiments/evaluate.py experiment=cub_metrics dataset.root=$(CUB) model.name='lite0 fine-tuned' model.checkpoint=results/metrics-cub/train/model.safetensors 'explainer=$(QUICK)' run_dir=results/metrics-cub/evaluate
	$(PY) experiments/report.py 'runs=[results/metrics-cub/evaluate]' out=results/metrics-cub/report

# A preset by its parts (sfam-bench models ls); the weights of lite0 come by pip, those of others are downloaded
LOSS ?= arcface
MODEL ?= lite0
PRESET = $*_$(LOSS)_$(MODEL)

train-%: setup  ## train a preset on cub, cars196 or sop: make train-cub LOSS=arcface [MODEL=resnet50] [MORE='train.epochs=2']
	$(PY) experiments/train.py experiment=train/$(PRESET) $(if $(filter cub,$*),dataset.root=$(CUB)) run_dir=results/train/$(PRESET) $(MORE)

# The data set's model, trained first where it is not there yet
EXPERIMENT ?= planted
SPACE ?= $(METHOD)
TRIALS ?= 40
tuned_on = experiment=$(EXPERIMENT) $(if $(HEAD),head=$(HEAD)) $(if $(filter cub,$(EXPERIMENT)),dataset.root=$(CUB))
TRAINED ?= results/tune/train-$(EXPERIMENT)$(if $(HEAD),-$(HEAD))

tune: setup  ## tune a method's fields on training classes: make tune METHOD=sfam [EXPERIMENT=planted] [HEAD=linear] [TRIALS=40] [MORE='objective=evidence_energy']
	@test -n "$(METHOD)" || { echo "error: METHOD is not given: name a method, as in make tune METHOD=sfam" >&2; exit 2; }
	$(PY) experiments/train.py $(tuned_on) resume=true run_dir=$(TRAINED)
	$(PY) experiments/tune.py $(tuned_on) space=$(SPACE) trials=$(TRIALS) model.checkpoint=$(TRAINED)/model.safetensors run_dir=results/tune/$(SPACE)-$(EXPERIMENT) $(MORE)

# SFAM's Euclidean forms beside the one that is configured
FORMS := 'explainer=[sfam,lafam]' $(foreach f,negative complement reciprocal,'+explainer.sfam_$f={_target_: sfam_bench.explainers.sfam.SFAM, euclidean_cis: $f}')
agreement = $(PY) experiments/part_agreement.py dataset=cub model=lite0 dataset.root=$(CUB)

part-agreement: setup  ## do maps follow which parts two birds share? frozen and fine-tuned (results/part-agreement/)
	rm -rf results/part-agreement
	$(PY) experiments/train.py experiment=cub dataset.root=$(CUB) run_dir=results/part-agreement/train
	$(foreach m,frozen fine-tuned,$(foreach s,$(SIMILARITIES),$(agreement) similarity=$s model.name='lite0 $m $s' $(if $(filter fine-tuned,$m),model.checkpoint=results/part-agreement/train/model.safetensors) $(if $(filter negative_euclidean,$s),$(FORMS)) run_dir=results/part-agreement/$m-$s &&)) true
	$(PY) experiments/report.py 'runs=[$(subst $(empty) $(empty),$(comma),$(foreach m,frozen fine-tuned,$(foreach s,$(SIMILARITIES),results/part-agreement/$m-$s)))]' out=results/part-agreement/report

# A grid of conf/sweep/; LAUNCHER=here, local or slurm. Started again, it continues what is not done.
LAUNCHER ?= here

sweep: setup  ## trainings x evaluations: make sweep SWEEP=gamma [LAUNCHER=local] [MORE='pairs.count=8'] (results/sweeps/)
	$(PY) experiments/sweep.py sweep=$(SWEEP) launcher=$(LAUNCHER) "more=[$(subst $(empty) $(empty),$(comma),$(foreach m,$(MORE),'$m'))]"

differential: setup  ## compare the methods with other people's code, and write docs/differential.md
	$(PY) -m benchmarks.differential

bench: .venv/.bench  ## speed against the peers, 12 minutes: make bench [PHOTOS=class folders] [RISE=checkout] [CHECK=1]
	$(PY) -m benchmarks.bench $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(RISE),--rise $(RISE)) $(if $(CHECK),--check)
.venv/.bench: .venv/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

coverage: setup  ## do 95 % intervals hold the truth 95 times in 100? simulated, 15 minutes
	$(PY) -m benchmarks.coverage

marking: setup  ## how often do tables of equal methods name losers? simulated, 10 minutes
	$(PY) -m benchmarks.marking

bench-gpu: setup  ## the engine against the GPU's own rate
	$(PY) -m benchmarks.gpu $(if $(PHOTOS),--photos $(PHOTOS))

fuzz: setup  ## break data sets, checkpoints, run folders, configs and images, and count what comes of it, an hour (results/bench/)
	$(PY) -m benchmarks.fuzz

data-%: setup  ## download cub, cars196 or sop: make data-cub
	$(PY) experiments/data.py download=$*

# The numbered tables and the figures: conf/table/N_*.yaml and conf/figure/*.yaml, out of results/records
listed = [$(subst $(empty) $(empty),$(comma),$(sort $(basename $(notdir $(wildcard $(1))))))]
PAPER := $(PY) experiments/paper.py

table-%: setup  ## table 1 to 8 out of stored records (results/tables/): make table-1 [MORE='records=results/train out=results/mine table.table_1.runs=[sop]']
	$(PAPER) 'table=$(call listed,conf/table/$*_*.yaml)' $(MORE)

figures: setup  ## draw the figures out of stored records (results/figures/)
	$(PAPER) 'figure=$(call listed,conf/figure/*.yaml)' $(MORE)

paper: setup  ## table-1 to table-8 and all figures, in a minute, without torch (results/tables/, figures/, paper.tex)
	$(PAPER) 'table=$(call listed,conf/table/*.yaml)' 'figure=$(call listed,conf/figure/*.yaml)' document=true $(MORE)

keep: setup  ## copy a run to where tables find it: make keep RUN=results/runs/... NAME=mine
	$(PY) experiments/keep.py run=$(RUN) out=results/records/$(NAME) $(MORE)

cluster-test: setup  ## a real SLURM of one node: every accident on it, and the page for new users, 40 minutes (results/tables/cluster/)
	tests/cluster/install.sh
	$(PY) -m pytest tests/cluster
	$(PY) -m tests.cluster.page
	$(PY) -m tests.cluster.faults

docs: setup  ## build the documentation as pages to read in a browser, from file:// too (.site/)
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "page: file://$(CURDIR)/.site/index.html"

docs-pictures: setup  ## draw the pictures of docs/concepts.md, with a network trained first where it is not there
	$(PY) experiments/train.py experiment=planted resume=true run_dir=results/concepts/train
	$(PY) -m benchmarks.concepts results/concepts/train/model.safetensors

test: lint  ## lint, types, import contracts and all tests
	$(PY) -m pytest -n 2

lint: setup  ## ruff, mypy, import-linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
