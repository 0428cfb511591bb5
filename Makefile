# `make run` runs the pipeline, `make test` all tests. The other targets are explained in CONTRIBUTING.md.
# Needs Python >= 3.11, make and git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ZERO := .venv/.zero
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test quick check canary bench up down chat serve preview
run: $(STAMP)
	@$(BIN)/python -m flows.pipeline

test: $(ZERO)
	@$(BIN)/python -m pytest

quick: $(STAMP)
	@$(BIN)/python -m pytest -m "not slow"

check: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

canary: $(STAMP)
	@$(BIN)/python -m tests.canary

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.$(NAME)

up down: $(STAMP)
	@$(BIN)/python -m flows.runtime.servers $@

chat: $(STAMP)
	@$(BIN)/python -m flows.chat

serve: $(STAMP)
	@$(BIN)/python -m flows.serving

preview: $(STAMP)
	@$(BIN)/python -m flows.preview $(PATHS)

# Without build isolation, so that pip installs nothing that constraints.txt does not pin.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.11"; exit 1; }
	@echo 'Installing the pinned packages into .venv. This takes a few minutes, once.'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) pip setuptools
	@PYTHONWARNINGS=ignore $(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

# DeepSpeed needs torch for its installation, and cannot be installed on every machine.
$(ZERO): $(STAMP)
	@$(PIP) --no-build-isolation -e '.[zero]' && touch $@ || echo 'DeepSpeed could not be installed: the tests of zero1, zero2 and zero3 are skipped.'
