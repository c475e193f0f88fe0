# `make run` and `make test` install everything they need into .venv and change nothing else on the machine.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
NAME ?=
SEEDS ?= 100000

.PHONY: help run test check browser docs lock bench soak steady clean

help:
	@echo "make run    set up and start eventmill on http://127.0.0.1:8080    (make run ARGS='--listen 127.0.0.1:9000')"
	@echo "make test   set up and run all tests                               (make test ARGS='-k bulk')"
	@echo "make check  run ruff and mypy"
	@echo "make browser install Chromium (Debian, Ubuntu), without which the tests of the explorer are skipped"
	@echo "make docs   write docs/settings.md from the settings classes"
	@echo "make lock   resolve the versions in requirements-dev.txt again"
	@echo "make bench  run all benchmarks; needs wrk                          (make bench NAME=ingest_bulk)"
	@echo "make soak   100,000 simulated runs, 20 minutes of crashes, alerts (with prometheus), attacks (make soak SEEDS=1000 ARGS=60)"
	@echo "make steady 45 minutes of steady load: memory and files stay flat  (make steady ARGS='5 500')"
	@echo "make clean  remove .venv and the caches of the tools"

run: .venv/.run
	@exec $(BIN)/eventmill run $(ARGS)

# Tests mostly wait, for leases and for programs, so more processes run them than there are cores.
test: .venv/.dev
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n 6 --dist worksteal tests/contract
	@$(BIN)/python -m pytest -n 4 --dist worksteal tests --ignore=tests/contract --ignore=tests/alerts
else
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)
endif

check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "Chromium cannot be installed: the tests of the explorer are skipped" >&2

docs: .venv/.dev
	@$(BIN)/eventmill settings --markdown > docs/settings.md

# After a change of dependencies: resolve them anew, without the present versions.
lock: .venv/bin/python
	@rm -rf .venv/lock && $(PYTHON) -m venv .venv/lock
	@.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@.venv/lock/bin/python -m pip freeze --exclude-editable --disable-pip-version-check > requirements-dev.txt
	@rm -rf .venv/lock

bench: .venv/.dev
	@PYTHONPATH=tests $(BIN)/python benchmarks/run.py $(NAME)

soak: .venv/.dev
	@$(BIN)/python -m eventmill.testing.simulation 0 $(SEEDS)
	@PYTHONPATH=tests $(BIN)/python benchmarks/soak.py $(ARGS)
	@$(BIN)/python -m pytest tests/alerts
	@PYTHONPATH=tests $(BIN)/python -m hostile.fuzz
	@PYTHONPATH=tests $(BIN)/python -m hostile.measure

steady: .venv/.dev
	@PYTHONPATH=tests $(BIN)/python benchmarks/steady.py $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "eventmill needs Python 3.11 or newer, and '$(PYTHON)' does not exist: install it (Debian, Ubuntu: apt-get install python3 python3-venv), or choose another with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "eventmill needs Python 3.11 or newer, and $(PYTHON) is older: choose another with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv or pip: install them (Debian, Ubuntu: apt-get install python3-venv python3-pip)" >&2; exit 1; }
	@echo "setting up .venv (once, about a minute) ..."
	@$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[chdb]'
	@touch $@

.venv/.dev: pyproject.toml requirements-dev.txt | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements-dev.txt --editable '.[dev]'
	@touch .venv/.run $@
