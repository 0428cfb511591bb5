# Two commands: make run, make test. Needs Python >= 3.11, make and git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ZERO := .venv/.zero

.PHONY: run test check bench up down chat
run: $(STAMP)
	@$(BIN)/python -m flows.pipeline

test: $(ZERO)
	@$(BIN)/python -m pytest

check: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.$(NAME)

up: $(STAMP)
	@$(BIN)/python -m flows.runtime.servers up

down: $(STAMP)
	@$(BIN)/python -m flows.runtime.servers down

chat: $(STAMP)
	@$(BIN)/python -m flows.chat

# Without build isolation, so that nothing but what constraints.txt pins is ever fetched.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.11"; exit 1; }
	@echo 'installing the pinned packages into .venv: a few minutes, once'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# DeepSpeed asks for torch while it is being installed, and is not for every machine.
$(ZERO): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[zero]' \
		&& touch $@ || echo 'DeepSpeed could not be installed: the tests of zero1, zero2 and zero3 will be skipped'
