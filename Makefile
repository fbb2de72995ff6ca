# Everything a person does with this repository, one verb each; `make` alone lists them.
# PYTHON=... picks the interpreter of a new .venv; ARGS=... goes to the program behind a verb.

PROFILE ?= profiles/smollm2-135m.json
ARGS ?=
OUT ?= wheelhouse
BIN := .venv/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup dev serve test test-vps wheelhouse bench lint format schema metrics constraints clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install into .venv what serving needs (compiles llama.cpp: minutes, the first time)
	@deploy/setup.sh

dev: ## Install into .venv what tests and lint need as well
	@deploy/setup.sh dev

serve: setup ## Serve PROFILE=profiles/smollm2-135m.json
	@exec $(BIN)/rayhost serve --profile $(PROFILE) $(ARGS)

test: dev ## Run every test (ARGS="-m 'not heavy'" for those that need no model weights)
	@exec $(BIN)/python -m pytest --durations=10 $(ARGS)

test-vps: dev ## Install, break and remove it on a Debian with systemd in a box (root; see docs/deploy.md)
	@exec $(BIN)/python -m pytest --durations=10 tests/vps $(ARGS)

wheelhouse: setup ## Pack into OUT=wheelhouse what install.sh needs on a machine without a compiler
	@$(BIN)/python deploy/wheelhouse.py $(OUT)

bench: dev ## Compare with llama-server, into bench/results (ARGS="--help" for all it can do)
	@exec $(BIN)/python -m bench.compare $(ARGS)

lint: dev ## Check style, types, import contracts and shell scripts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/shellcheck --external-sources --check-sourced deploy/*.sh .ci/run

format: dev ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schema: dev ## Write profiles/schema.json anew from the code
	$(BIN)/rayhost check --schema >.schema.new && mv .schema.new profiles/schema.json

metrics: dev ## Write docs/metrics.md anew from the code
	$(BIN)/python -m rayhost.metrics_page >.metrics.new && mv .metrics.new docs/metrics.md

constraints: ## Pin in constraints.txt the newest versions that pyproject.toml allows
	deploy/constraints.sh

clean: ## Remove .venv and every cache of this checkout (not the downloaded models)
	rm -rf .venv *.egg-info build dist wheelhouse .coverage* .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
