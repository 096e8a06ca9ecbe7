# Every target installs what it needs into .venv first. PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train on the embedded data set with the monitor on, and say where to look"
	@echo "make test   run the tests"
	@echo "make lint   ruff, mypy and the layers contract"
	@echo "make docs   build the documentation into site/"
	@echo "make bench  run the benchmarks and keep their results in benchmarks/results/"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python -m examples.demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.smoe
	$(BIN)/python -m benchmarks.monitor
	$(BIN)/python -m benchmarks.group_cam
	$(BIN)/python -m benchmarks.sise
	$(BIN)/python -m benchmarks.curves
	$(BIN)/python -m benchmarks.augmentation
	$(BIN)/python -m benchmarks.roar_kar

clean:
	rm -rf $(VENV) site runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
