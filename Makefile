# Every target sets up what it needs: .venv is made once and refreshed when pyproject.toml changes. What a run has
# finished is kept; FORCE=1 moves it aside and makes it again.
PYTHON ?= python3
PY := .venv/bin/python
SB := .venv/bin/sfam-bench
CUB ?= $(or $(SFAM_BENCH_DATA),data)/CUB_200_2011
comma := ,
empty :=
# A list of Hydra: words, or the files of a group
list = [$(subst $(empty) $(empty),$(comma),$(strip $(1)))]
files = $(sort $(basename $(notdir $(wildcard $(1)))))
FIRST := sfam similarity_decomposition
METHODS := $(call list,$(FIRST) $(filter-out $(FIRST),$(call files,conf/explainer/*.yaml)))
METRICS := $(call list,$(call files,conf/metric/*.yaml))
# For a recipe: moves the folder of a run aside if FORCE=1
aside = $(if $(FORCE),@test ! -e $(1) || mv $(1) $(1).$$(date +%Y%m%d-%H%M%S))

.DEFAULT_GOAL := help
.PHONY: help figures paper leaderboard keep setup demo demo-cub methods metrics networks known-answers table-methods table-methods-cub table-choices table-choices-cub table-photos table-few-shot table-metrics table-metrics-cub tune part-agreement sweep differential bench coverage marking bench-gpu fuzz cluster-test docs docs-pictures test test-all test-fast lint

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed  ## create .venv and install what is missing
.venv/.installed: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The models that several tables share, each trained once
train_planted := experiment=planted
train_planted-linear := experiment=planted head=linear
train_cub = experiment=cub dataset.root=$(CUB)
MODELS := $(foreach m,planted planted-linear cub,results/train/$m/model.safetensors)
$(MODELS): results/train/%/model.safetensors: | setup
	$(call aside,$(@D))
	$(SB) train $(train_$*) run_dir=$(@D) resume=true
$(if $(FORCE),.PHONY: $(MODELS))
planted = model.checkpoint=results/train/planted/model.safetensors
birds = dataset.root=$(CUB) model.name='lite0 fine-tuned' model.checkpoint=results/train/cub/model.safetensors

demo: results/train/planted/model.safetensors  ## train, explain and score on the planted set (results/demo/)
	$(call aside,results/demo)
	$(SB) intervene experiment=planted $(planted) run_dir=results/demo/intervention resume=true
	$(SB) evaluate experiment=planted $(planted) maps.save=true run_dir=results/demo/evaluate resume=true
	$(SB) report 'runs=[results/demo/evaluate]' out=results/demo/report

demo-cub: results/train/cub/model.safetensors  ## the same on real birds, frozen and fine-tuned: make demo-cub CUB=path/to/CUB_200_2011
	$(call aside,results/demo-cub)
	$(SB) embed experiment=cub dataset.root=$(CUB) split=all
	$(SB) evaluate experiment=cub dataset.root=$(CUB) model.name='lite0 frozen' maps.save=true run_dir=results/demo-cub/frozen resume=true
	$(SB) evaluate experiment=cub $(birds) maps.save=true run_dir=results/demo-cub/fine-tuned resume=true
	$(SB) report 'runs=[results/demo-cub/frozen,results/demo-cub/fine-tuned]' out=results/demo-cub/report

methods: setup  ## print what every method is and costs, and write docs/methods.md; on CUB where it is
	$(SB) methods experiment=$(if $(wildcard $(CUB)),cub dataset.root=$(CUB),planted) 'explainer=$(METHODS)'

metrics: setup  ## print what every metric measures and costs, and write docs/metrics.md
	$(SB) metrics model=lite0 'metric=$(METRICS)'

networks: setup  ## compare a member of each family of networks with its own forward pass, and write docs/networks.md (minutes)
	$(SB) models check --all > docs/networks.md.new && mv docs/networks.md.new docs/networks.md

table-methods: setup  ## every method on the planted set, by similarity, pooling and head (results/sweeps/embedders/)
	$(SB) sweep sweep=embedders launcher=$(LAUNCHER) 'more=["explainer=$(METHODS)"]'

table-methods-cub: results/train/cub/model.safetensors  ## every method on real birds, fine-tuned (results/methods-cub/)
	$(call aside,results/methods-cub)
	$(SB) evaluate experiment=cub_methods $(birds) 'explainer=$(METHODS)' maps.save=true run_dir=results/methods-cub/evaluate resume=true
	$(SB) report 'runs=[results/methods-cub/evaluate]' out=results/methods-cub/report

table-choices: setup  ## SFAM along gamma, and what its abstract leaves open, on the planted set (results/sweeps/)
	$(SB) sweep sweep=gamma launcher=$(LAUNCHER)
	$(SB) sweep sweep=choices launcher=$(LAUNCHER)

table-choices-cub: results/train/cub/model.safetensors  ## the same on real birds, fine-tuned (results/sweeps/)
	$(SB) sweep sweep=gamma_cub launcher=$(LAUNCHER) 'more=[dataset.root=$(CUB),model.checkpoint=$(abspath $<)]'
	$(SB) sweep sweep=choices_cub launcher=$(LAUNCHER) 'more=[dataset.root=$(CUB),model.checkpoint=$(abspath $<)]'

table-photos: setup  ## birds, cars and groceries, frozen and trained, by loss and similarity; hours (results/sweeps/)
	$(SB) sweep sweep=photos_frozen launcher=$(LAUNCHER)
	$(SB) sweep sweep=photos launcher=$(LAUNCHER)

few_shot = $(SB) $(1) experiment=few_shot/planted_$(2) run_dir=results/few-shot/$(1)-$(2) resume=true
explained = $(call few_shot,evaluate,$(1)) variants=few_shot model.checkpoint=results/few-shot/train-$(1)/model.safetensors

table-few-shot: setup  ## prototypes of ProtoNet and class weights of Baseline++ on the planted set (results/few-shot/)
	$(call aside,results/few-shot)
	$(foreach n,protonet baseline_pp,$(call few_shot,train,$n) && $(call explained,$n) &&) true
	$(SB) report 'runs=[results/few-shot/evaluate-protonet,results/few-shot/evaluate-baseline_pp]' out=results/few-shot/report

# Without methods that take passes of their own, which cost more than all metrics; QUICK='$(METHODS)' has them all
QUICK ?= [sfam,similarity_decomposition,cam,fam,gam,grad_cam,grad_cam_pp,layer_cam,eigen_grad_cam,zhu,embedding_cam,input_x_gradient,weight_transfer,lafam,centre,chance]

table-metrics: results/train/planted/model.safetensors  ## every metric, and what the metrics are worth, on the planted set (results/metrics-planted/)
	$(call aside,results/metrics-planted)
	$(SB) evaluate experiment=planted_metrics $(planted) 'explainer=$(QUICK)' run_dir=results/metrics-planted/evaluate resume=true
	$(SB) report 'runs=[results/metrics-planted/evaluate]' out=results/metrics-planted/report

table-metrics-cub: results/train/cub/model.safetensors  ## the same on real birds, fine-tuned (results/metrics-cub/)
	$(call aside,results/metrics-cub)
	$(SB) evaluate experiment=cub_metrics $(birds) 'explainer=$(QUICK)' run_dir=results/metrics-cub/evaluate resume=true
	$(SB) report 'runs=[results/metrics-cub/evaluate]' out=results/metrics-cub/report

# A preset by its parts (sfam-bench models), or with lite0 a short training; its weights come by pip, others are downloaded
LOSS ?= arcface
MODEL ?= lite0
preset = $*_$(LOSS)_$(MODEL)

train-%: setup  ## train on cub, cars196 or sop: make train-cub LOSS=arcface [MODEL=resnet50] [MORE='train.epochs=2']
	$(SB) train $(if $(filter lite0,$(MODEL)),experiment=lite0 dataset=$* loss=$(LOSS),experiment=train/$(preset)) $(if $(filter cub,$*),dataset.root=$(CUB)) run_dir=results/train/$(preset) $(MORE)

# The model of planted (with HEAD=linear of planted-linear) or of cub
EXPERIMENT ?= planted
SPACE ?= $(METHOD)
TRIALS ?= 40
trained = $(EXPERIMENT)$(if $(HEAD),-$(HEAD))

tune: results/train/$(trained)/model.safetensors  ## tune a method's fields on training classes: make tune METHOD=sfam [EXPERIMENT=planted] [HEAD=linear] [TRIALS=40] [MORE='objective=evidence_energy']
	@test -n "$(METHOD)" || { echo "error: METHOD is not given: name a method, as in make tune METHOD=sfam" >&2; exit 2; }
	$(SB) tune $(train_$(trained)) space=$(SPACE) trials=$(TRIALS) model.checkpoint=$< run_dir=results/tune/$(SPACE)-$(EXPERIMENT) $(MORE)

# SFAM's Euclidean forms beside the one that is configured
FORMS := 'explainer=[sfam,lafam]' $(foreach f,negative complement reciprocal,'+explainer.sfam_$f={_target_: sfam_bench.explainers.sfam.SFAM, euclidean_cis: $f}')
agreement = $(SB) part-agreement dataset=cub model=lite0 dataset.root=$(CUB) resume=true

part-agreement: results/train/cub/model.safetensors  ## do maps follow which parts two birds share? frozen and fine-tuned (results/part-agreement/)
	$(call aside,results/part-agreement)
	$(agreement) model.name='lite0 frozen cosine' run_dir=results/part-agreement/frozen-cosine
	$(agreement) model.name='lite0 frozen negative_euclidean' similarity=negative_euclidean $(FORMS) run_dir=results/part-agreement/frozen-negative_euclidean
	$(agreement) model.name='lite0 fine-tuned cosine' model.checkpoint=$< run_dir=results/part-agreement/fine-tuned-cosine
	$(agreement) model.name='lite0 fine-tuned negative_euclidean' similarity=negative_euclidean $(FORMS) model.checkpoint=$< run_dir=results/part-agreement/fine-tuned-negative_euclidean
	$(SB) report 'runs=$(call list,$(foreach r,frozen fine-tuned,results/part-agreement/$r-cosine results/part-agreement/$r-negative_euclidean))' out=results/part-agreement/report

# A grid of conf/sweep/; LAUNCHER=here, local or slurm. Started again, it continues what is not done.
LAUNCHER ?= here

sweep: setup  ## trainings x evaluations: make sweep SWEEP=gamma [LAUNCHER=local] [MORE='pairs.count=8'] (results/sweeps/)
	$(SB) sweep sweep=$(SWEEP) launcher=$(LAUNCHER) "more=$(call list,$(foreach m,$(MORE),'$m'))"

all_methods = 'more=["explainer=$(METHODS)"$(foreach m,$(MORE),$(comma)"$m")]'

known-answers: setup  ## rendered worlds x networks x all methods, whose cause is measured; hours, continued if started again (results/sweeps/known_answers/)
	$(SB) sweep sweep=known_answers launcher=$(LAUNCHER) $(all_methods)
	$(SB) sweep sweep=known_answers_pairs launcher=$(LAUNCHER) $(all_methods)

differential: setup  ## compare the methods with other people's code [PEERS=folder of checkouts], and write docs/differential.md
	$(if $(PEERS),PEERS=$(PEERS)) $(PY) -m benchmarks.differential

bench: .venv/.bench  ## speed against the peers, 6 to 9 minutes: make bench [PHOTOS=class folders] [RISE=checkout] [CHECK=1]
	$(PY) -m benchmarks.bench $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(RISE),--rise $(RISE)) $(if $(CHECK),--check)
.venv/.bench: .venv/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

coverage: setup  ## do 95 % intervals contain the true mean 95 times in 100? simulated, 15 minutes
	$(PY) -m benchmarks.coverage

marking: setup  ## how often do tables of equal methods report false differences? simulated, 10 minutes
	$(PY) -m benchmarks.marking

bench-gpu: setup  ## the engine against the GPU's own rate
	$(PY) -m benchmarks.gpu $(if $(PHOTOS),--photos $(PHOTOS))

fuzz: setup  ## break data sets, checkpoints, run folders, configs and images, and count what comes of it, an hour (results/bench/)
	$(PY) -m benchmarks.fuzz

data-%: setup  ## download cub, cars196 or sop: make data-cub
	$(SB) data download=$*

# Methods of this benchmark on its own tracks; RISE takes an hour more
ENTERED ?= [sfam,similarity_decomposition,grad_cam,lafam,centre,chance]

# The numbered tables and the figures: conf/table/N_*.yaml and conf/figure/*.yaml, out of results/records
listed = $(call list,$(call files,$(1)))
PAPER := $(SB) paper

table-%: setup  ## table 1 to 13 out of stored records (results/tables/): make table-1 [MORE='records=results/train out=results/mine table.table_1.runs=[sop]']
	$(PAPER) 'table=$(call listed,conf/table/$*_*.yaml)' $(MORE)

figures: setup  ## draw the figures out of stored records (results/figures/)
	$(PAPER) 'figure=$(call listed,conf/figure/*.yaml)' $(MORE)

paper: setup  ## table-1 to table-13 and all figures, in a minute, without torch (results/tables/, figures/, paper.tex)
	$(PAPER) 'table=$(call list,$(call files,conf/table/?_*.yaml) $(call files,conf/table/??_*.yaml))' 'figure=$(call listed,conf/figure/*.yaml)' document=true $(MORE)

leaderboard: setup  ## rows of our own methods on the planted tracks, half an hour (results/leaderboard/)
	$(foreach t,planted-v1 planted-shortcut-v1,$(SB) track submit $t 'method=$(ENTERED)' && $(SB) track score results/track/$t &&) true

keep: setup  ## copy a run to where tables find it: make keep RUN=results/runs/... NAME=mine
	$(SB) keep run=$(RUN) out=results/records/$(NAME) $(MORE)

cluster-test: setup  ## a real SLURM of one node: every kind of failure on it, and the page for new users, 40 minutes (results/tables/cluster/)
	tests/cluster/install.sh
	$(PY) -m pytest tests/cluster
	$(PY) -m tests.cluster.page
	$(PY) -m tests.cluster.faults

docs: setup  ## build the documentation as pages to read in a browser, from file:// too (.site/)
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "page: file://$(CURDIR)/.site/index.html"

docs-pictures: results/train/planted/model.safetensors  ## draw the pictures of docs/concepts.md, docs/methods.md and docs/gallery.md
	$(PY) -m benchmarks.concepts $<
	$(PY) -m benchmarks.gallery $<

# Compiled modules are kept: the tests start a hundred processes
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(PY) -m pytest --dist worksteal --durations=20
# Lint uses one core, so it runs while the tests run
WITH_LINT := --no-print-directory --jobs 2 lint

test: setup  ## lint, types, import contracts and all tests but the slow ones
	@$(MAKE) $(WITH_LINT) test-fast

test-all: setup  ## the same with every tensor's shape checked, and the slow tests
	@$(MAKE) $(WITH_LINT) test-fast SHAPES='-p tests.shapes'
	$(PYTEST) -n 4 -m slow    # many of them wait: for SLURM, for processes, for files

test-fast: setup
	$(PYTEST) -n 2 -m 'not slow' $(SHAPES)

lint: setup  ## ruff, mypy, import-linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
