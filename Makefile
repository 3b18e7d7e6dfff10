# Set-up, demonstration, tests and benchmarks, each in one command; `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

STAMP := $(VENV)/.installed
# Activated, not called by its path: DeepSpeed, also in the workers that Ray starts, looks for `ninja` on PATH.
ACTIVATE := . $(VENV)/bin/activate

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint rehearse bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10
	@echo
	@echo 'Settings: PYTHON=python3 (3.11 or newer) makes the virtual environment in VENV=.venv;'
	@echo '          JOBS=2 processes share the tests (each takes about one core).'

setup: $(STAMP) ## make the virtual environment; does nothing when it is up to date

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'meltmatch needs Python 3.11 or newer; $(PYTHON) is not: name one with `make PYTHON=...`' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev,offline]'
	@touch $@

demo: setup ## run the demonstration on films that it renders itself
	$(ACTIVATE) && python -m tuning.demo

test: setup lint ## check style and types, then run every test
	$(ACTIVATE) && python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: setup ## check style and types
	$(ACTIVATE) && ruff check
	$(ACTIVATE) && ruff format --check
	$(ACTIVATE) && mypy

rehearse: setup ## disturb runs on local clusters of several nodes; more than an hour (200 random kills)
	$(ACTIVATE) && python -m pytest -m rehearsal -s
	$(ACTIVATE) && python -m tests.rehearsals.chaos

bench: setup ## time what is worth timing
	$(ACTIVATE) && python tests/benchmarks/run.py

clean: ## remove .venv, caches and build outputs (not runs/)
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find cluster distributed models tests tuning -name __pycache__ -type d -prune -exec rm -rf {} +
