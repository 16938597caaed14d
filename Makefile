# `make tune` sets up and runs the main job, `make test` sets up and tests. Nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PORT ?= 5000
PARALLEL := -n auto --maxprocesses=4 --dist=worksteal

.PHONY: tune gpu test test-all test-cluster lint format setup ui clean help

help:
	@echo "make tune       set up, then search on the digits (options: make tune ARGS='--trials 64')"
	@echo "make gpu        check a machine with a GPU, in at most 12 minutes (options: make gpu ARGS='--only checks')"
	@echo "make ui         serve the MLflow UI of the results at http://127.0.0.1:5000 (another port: make ui PORT=5001)"
	@echo "make test       set up, then run the quick tests"
	@echo "make test-all   set up, then run all tests (about 45 minutes on two cores)"
	@echo "make test-cluster  set up, then break hosts, links and processes of a cluster of three namespaced hosts"
	@echo "                (as root, about 20 minutes on two idle cores)"
	@echo "make lint       check with ruff and mypy"
	@echo "make format     format with ruff, and fix what it can"
	@echo "make clean      delete the environment and the caches; runs/ stays"

setup: $(VENV)/.installed

# Runs again only when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV) (a few minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

tune: setup
	@$(BIN)/python scripts/tune.py $(ARGS)

# Installs nothing: without the environment it takes PYTHON, which needs torch 2.11 or newer and nothing else.
gpu:
	@if test -x $(BIN)/python; then exec $(BIN)/python scripts/gpu_check.py $(ARGS); fi; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make gpu PYTHON=/path/to/python3.12"; exit 2; }; \
		exec $(PYTHON) scripts/gpu_check.py $(ARGS)

# MLflow itself ends with status 0 when its port is taken.
ui: setup
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2> /dev/null || \
		{ echo "Port $(PORT) is taken; name a free one: make ui PORT=5001"; exit 2; }
	@$(BIN)/python -m meanflow_tune.tracking.pages runs/mlflow.db http://127.0.0.1:$(PORT)
	@MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db \
		--host 127.0.0.1 --port $(PORT) --workers 1

test: setup
	@$(BIN)/python -m pytest $(PARALLEL)

# Tests that start Ray clusters run alone, one at a time.
test-all: setup
	@$(BIN)/python -m pytest -m 'not cluster and not hosts' $(PARALLEL)
	@$(BIN)/python -m pytest -m 'cluster and not hosts'

# One at a time, on a machine that does nothing else; prints the seconds from each fault to its recovery.
test-cluster: setup
	@$(BIN)/python -m pytest -m hosts

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
