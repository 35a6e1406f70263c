# Thin lines over `python -m xmkd`; `make help` lists them. Pass overrides as OVERRIDES="key=value key=value".
SHELL := /bin/bash
PY := .venv/bin/python
XMKD := $(PY) -m xmkd
OVERRIDES ?=
TESTS ?= tests
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format sheets bench train-teacher crossval-teacher pretrain-mae distill distill-controls

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

setup: ## Create .venv with everything in it (two to four minutes, once)
	@tools/setup.sh

demo: setup ## Simulate a cohort; teacher, pre-training, distillation, comparison; needs no data (23 minutes on 2 cores)
	@tools/demo.sh $(OVERRIDES)

test: setup ## Run the tests
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled $(PY) -m pytest -n 2 --dist loadfile $(TESTS)

check: setup ## Lint, format check, strict types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup ## Format and mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

sheets: setup ## Contact sheets of the simulator, in runs/sheets; beside real images where XMKD_DATA has them
	@$(PY) tools/sheets.py runs/sheets
	@$(PY) tools/sheets.py runs/sheets --beside

bench: setup ## Run the head-to-head benchmarks and print their ratios
	@for name in loader loop bootstrap simulator mae; do $(XMKD) bench $$name || exit 1; done

train-teacher: setup ## Train and evaluate the ultrasound teacher on MMOTU (about ten minutes on 2 cores)
	@$(XMKD) fit experiments/teacher_mmotu.yaml $(OVERRIDES)

crossval-teacher: setup ## Five grouped folds of the same, with out-of-fold predictions
	@$(XMKD) crossval experiments/teacher_mmotu.yaml $(OVERRIDES)

pretrain-mae: setup ## Pre-train the MRI student on unlabelled volumes of the simulated cohort
	@$(XMKD) fit experiments/mae_pod.yaml $(OVERRIDES)

distill: setup ## Distil the newest cross-validated teacher of experiments/teacher_pod.yaml into it
	@$(XMKD) fit experiments/distill_pod.yaml $(OVERRIDES)

distill-controls: setup ## Every arm that tells transfer from regularisation, and the claims (about three hours on 2 cores)
	@set -o pipefail; $(XMKD) controls experiments/controls/demo.yaml $(OVERRIDES) | tee >(cat >&2) | \
		sed -n 's/^table: //p' | xargs -r $(XMKD) compare --claims experiments/claims.yaml
