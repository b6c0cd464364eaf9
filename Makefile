# Two commands do all the set-up: `make demo` runs the main job end to end, `make test` checks everything.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Every process here computes on one thread: torch's threads spin badly on shared cores.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1

.PHONY: help setup demo test chaos lint format check-python clean

help:
	@echo "make demo    set up, train tiny models, search their merge, export the best (about 8 minutes the first time)"
	@echo "make test    set up, then all linters and all tests"
	@echo "make chaos   kill the parts of a service at random moments, 200 times and on Ray (about an hour)"
	@echo "make lint    ruff, mypy, and the linters of docker/ only"
	@echo "make format  rewrite the code in the project's format"
	@echo "make clean   remove what examples and demo made (not the environment)"

setup: $(INSTALLED)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mergeopt needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }

$(INSTALLED): pyproject.toml constraints.txt | check-python
	@echo "==> Installing mergeopt and its pinned dependencies into $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[test]'
	@touch $@

demo: $(INSTALLED)
	@examples/demo.sh $(BIN)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/yamllint --strict -c docker/.yamllint docker
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml docker/compose.cuda.yaml

test: lint
	$(BIN)/python -m pytest

chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos --kills 200
	MERGEOPT_CHAOS=long $(BIN)/python -m pytest -s tests/chaos

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf examples/tiny/models examples/tiny/tasks examples/own-evaluator/models examples/own-evaluator/data demo mergeopt-jobs mergeopt.db mergeopt.db-wal mergeopt.db-shm
