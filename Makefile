# make tune: set up and run the main job. make test: set up and test. Nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PARALLEL := -n auto --maxprocesses=4 --dist=worksteal

.PHONY: tune test test-all lint format setup ui clean help

help:
	@echo "make tune      set up, then search on the digits data   (ARGS='--trials 40' for more)"
	@echo "make ui        open the MLflow UI on the results"
	@echo "make test      set up, then the quick tests    make test-all: all of them"
	@echo "make lint      ruff and mypy                   make format: ruff's formatter"

setup: $(VENV)/.installed

# Installed once; again only when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV) (a few minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

tune: setup
	@$(BIN)/python scripts/tune.py $(ARGS)

ui: setup
	@$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db --host 127.0.0.1 --port 5000

test: setup
	@$(BIN)/python -m pytest $(PARALLEL)

# Tests that start Ray clusters want the machine for themselves.
test-all: setup
	@$(BIN)/python -m pytest -m 'not cluster' $(PARALLEL)
	@$(BIN)/python -m pytest -m cluster

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
