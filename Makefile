# Every target installs what it needs into .venv first. PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Environments beside .venv: what builds the wheel, the wheel alone, the lowest versions that pyproject.toml allows, and,
# on top of .venv, DeepSpeed and pytorch-grad-cam.
BUILD  := .venv-build
WHEEL  := .venv-wheel
LOWEST := .venv-lowest
SPEED  := .venv-deepspeed
PEERS  := .venv-peers

# make test COVERAGE=1 measures the branch coverage in the same run; below the floor in pyproject.toml it fails.
# ALL_COMBINATIONS=1 runs every combination of the large grids of tests, of which otherwise a part is run.
COVERAGE ?=
ifneq ($(COVERAGE),)
COVER := --cov --cov-report=term-missing:skip-covered
endif

.PHONY: help demo test test-lowest deepspeed test-deepspeed lint docs dist wheel bench papers-small peers peers-small nightly clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         train on the embedded data set with the monitor on, and say where to look"
	@echo "make test         run the tests; with COVERAGE=1 measure the branch coverage, too"
	@echo "make test-lowest  run the main tests with the lowest versions that pyproject.toml allows"
	@echo "make test-deepspeed  install DeepSpeed beside .venv, and run its tests on two processes"
	@echo "make lint         ruff, mypy and the layers contract"
	@echo "make docs         build the documentation into site/; a link that leads nowhere is an error"
	@echo "make dist         build the wheel and the source archive into dist/"
	@echo "make wheel        install the wheel without extras into a clean environment and import all of it"
	@echo "make bench        run the benchmarks and keep their results in benchmarks/results/"
	@echo "make papers-small run each experiment of the papers on small data, to see that it runs"
	@echo "make peers-small  our maps beside those of the libraries in .venv, in small"
	@echo "make peers        install pytorch-grad-cam beside .venv, for the comparison with other libraries"
	@echo "make nightly      papers-small, the checks for a GPU in small, and peers-small with pytorch-grad-cam, too"
	@echo "make clean        remove the environments and everything built"

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(COVER)

# Exactly the lower bounds of pyproject.toml; the slow tests are left out. Old libraries may use what others deprecate.
test-lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet packaging tomli
	$(LOWEST)/bin/python tools/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt \
		--editable ".[wandb,demo,baselines,timm]" pytest hypothesis scipy lightning==2.5
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -W default::DeprecationWarning -W default::FutureWarning -m "not slow" \
		tests/scales tests/functional tests/explainers \
		tests/callbacks tests/data tests/metrics tests/pictures tests/literal tests/studies tests/cli tests/test_cli.py

# An environment in whose Python what .venv has is there, too.
define ON_TOP
	$(BIN)/python -m venv --clear $(1)
	$(BIN)/python -c 'import site; print(*site.getsitepackages())' > \
		"$$($(1)/bin/python -c 'import site; print(*site.getsitepackages())')/beneath.pth"
endef

# DeepSpeed comes as source. Without operators of its own to compile it is installed in seconds, and runs on CPUs.
$(SPEED)/.installed: pyproject.toml | $(VENV)/.installed-dev
	$(call ON_TOP,$(SPEED))
	$(SPEED)/bin/python -m pip install --quiet setuptools wheel
	DS_ACCELERATOR=cpu DS_BUILD_OPS=0 $(SPEED)/bin/python -m pip install --quiet --no-build-isolation "deepspeed>=0.16,<0.20"
	@touch $@

deepspeed: $(SPEED)/.installed

test-deepspeed: deepspeed
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(SPEED)/bin/python -m pytest tests/callbacks/test_deepspeed.py

# pytorch-grad-cam and its OpenCV: only for the comparison with it.
$(PEERS)/.installed: pyproject.toml | $(VENV)/.installed-dev
	$(call ON_TOP,$(PEERS))
	$(PEERS)/bin/python -m pip install --quiet "grad-cam>=1.5.7,<2"
	@touch $@

peers: $(PEERS)/.installed

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

# Nothing of the package is needed to build it: this takes seconds in a fresh clone.
$(BUILD)/bin/pyproject-build:
	$(PYTHON) -m venv $(BUILD)
	$(BUILD)/bin/python -m pip install --quiet "build>=1.2"

dist: $(BUILD)/bin/pyproject-build
	rm -rf dist
	$(BUILD)/bin/python -m build --outdir dist

wheel: dist
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet dist/*.whl
	cd $(WHEEL) && bin/python -I ../tools/check_wheel.py
	$(WHEEL)/bin/lightning-saliency --version

bench: $(VENV)/.installed-dev peers
	$(BIN)/python -m benchmarks.smoe
	$(BIN)/python -m benchmarks.monitor
	$(BIN)/python -m benchmarks.group_cam
	$(BIN)/python -m benchmarks.sise
	$(BIN)/python -m benchmarks.curves
	$(BIN)/python -m benchmarks.augmentation
	$(BIN)/python -m benchmarks.roar_kar
	$(PEERS)/bin/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.precisions
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.smoe_parts
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.large_images
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.copies

papers-small: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.papers --small --workers 2

peers-small: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.peers --quick

nightly: papers-small peers
	bash benchmarks/on_gpu.sh --cpu --out runs/on_gpu
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks.peers --quick

clean:
	rm -rf $(VENV) $(BUILD) $(WHEEL) $(LOWEST) $(SPEED) $(PEERS) dist site runs .coverage .coverage.* \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
