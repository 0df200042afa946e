# `make` alone explains what there is.
.DEFAULT_GOAL := help
.PHONY: help install demo up test lint format bench schemas clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
NAME ?=

help: ## Explain the targets
	@echo "BioDataMine: make TARGET [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install BioDataMine with everything it needs

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## Start everything, push real files, show what came out (ARGS=--once ends by itself)
	$(BIN)/biodatamine demo $(ARGS)

up: $(STAMP) ## Start everything on this machine (ARGS=... as for `biodatamine up`)
	$(BIN)/biodatamine up $(ARGS)

test: $(STAMP) ## Run all tests (ARGS="tests/unit -k name" for some)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## Check style, types, import arrows and generated schemas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.generate --check

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Run a benchmark (NAME=pipeline; without a name they are listed)
	$(BIN)/biodatamine bench $(NAME) $(ARGS)

schemas: $(STAMP) ## Write the JSON Schemas of the events
	$(BIN)/python -m schemas.generate

clean: ## Remove the environment and caches; data folders stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
