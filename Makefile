# make demo        install into .venv and run the demonstration
# make test        install what the tests need and run them all
# make check       format check, lint and strict types
# make bench       measure what the core costs, beside limits and peers of the same run (minutes)
# make crash-test  kill and stop the work at 200 random moments each, and compare with work left alone (minutes)
# make format      format the code and fix what the linter can fix

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := store runtime handlers
CHECKED := $(PACKAGES) tests $(if $(wildcard benchmarks/*.py),benchmarks)
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Stamps: each says what the environment holds, and is older than what would make it stale.
MADE := $(VENV)/.made
USER_SET_UP := $(VENV)/.set-up-for-use
DEV_SET_UP := $(VENV)/.set-up-for-development
SOURCES := $(shell find $(PACKAGES) -type f -not -name '*.pyc' -not -path '*/__pycache__/*')

# A development set-up runs the demonstration as well; installing over it would hide later edits from the tests.
SET_UP := $(if $(wildcard $(DEV_SET_UP)),$(DEV_SET_UP),$(USER_SET_UP))

KILLS ?= 200

.PHONY: help demo test check format bench crash-test
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(SET_UP)
	$(BIN)/cso demo

test: $(DEV_SET_UP)
	$(BIN)/python -m pytest

check: $(DEV_SET_UP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict $(CHECKED)

bench: $(DEV_SET_UP)
	$(BIN)/python -m benchmarks

crash-test: $(DEV_SET_UP)
	$(BIN)/python -m tests.crash --kills $(KILLS)
	$(BIN)/python -m tests.crash --kills $(KILLS) --stop

format: $(DEV_SET_UP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(MADE):
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) is not installed: sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cso-runtime needs Python 3.11 or newer, and $(PYTHON) is" \
			"$$($(PYTHON) -V 2>&1): try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# build/ goes first: setuptools would package modules left there that the tree no longer has.
$(USER_SET_UP): $(MADE) pyproject.toml constraints.txt $(SOURCES)
	rm -rf build
	$(PIP) install --quiet -c constraints.txt .
	@touch $@

# pip knows dependency groups since 25.1, and fresh environments often bring an older one.
$(DEV_SET_UP): $(MADE) pyproject.toml constraints.txt
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet -c constraints.txt --group dev -e .
	@touch $@
