# `make run` and `make test` set up everything they need in .venv; nothing else on the machine is changed.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
NAME ?=
SEEDS ?= 100000

.PHONY: help run test check bench soak steady clean

help:
	@echo "make run    set up and start eventmill on http://127.0.0.1:8080  (options: make run ARGS='--listen 127.0.0.1:9000')"
	@echo "make test   set up and pass all tests                            (options: make test ARGS='-k bulk')"
	@echo "make check  ruff and mypy"
	@echo "make bench  what benchmarks/README.md quotes, measured here            (one of them: make bench NAME=ingest_bulk)"
	@echo "make soak   a hundred thousand simulated runs, then twenty minutes of crashes on three deployments"
	@echo "                                     (options: make soak SEEDS=1000 ARGS=60, runs and seconds of crashes)"
	@echo "make steady 45 minutes at 500 events/s: memory and files must not grow      (options: make steady ARGS='5 500')"
	@echo "make clean  remove .venv and the tools' caches"

run: .venv/.run
	@exec $(BIN)/eventmill run $(ARGS)

test: .venv/.dev
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/.dev
	@PYTHONPATH=tests $(BIN)/python benchmarks/run.py $(NAME)

soak: .venv/.dev
	@$(BIN)/python -m eventmill.testing.simulation 0 $(SEEDS)
	@PYTHONPATH=tests $(BIN)/python benchmarks/soak.py $(ARGS)

steady: .venv/.dev
	@PYTHONPATH=tests $(BIN)/python benchmarks/steady.py $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "eventmill needs Python 3.11 or newer, and there is no '$(PYTHON)' here: install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name another with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "eventmill needs Python 3.11 or newer, and $(PYTHON) is older: name another with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv or pip: install them (Debian, Ubuntu: apt-get install python3-venv python3-pip)" >&2; exit 1; }
	@echo "setting up .venv (once, about a minute) ..."
	@$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[chdb]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.run $@
