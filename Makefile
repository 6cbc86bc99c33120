# make demo and make test set up all they need in .venv. Variables: PYTHON, VENV, TORCH, JOBS; of the benchmarks PEERS, ARGS.
PYTHON ?= python3
VENV ?= .venv
# The pinned version; any torch >= 2.11 will do. An installed torch is kept.
TORCH ?= torch==2.13.0
JOBS ?= 2
# The other libraries that the benchmarks measure; options of the benchmarks, such as ARGS=--quick.
PEERS ?= .venv-peers
SUITE ?= infonce
ARGS ?=
BIN := $(VENV)/bin
# Absolute, since tools run from other folders too.
PY := $(abspath $(BIN))/python
PEERS_PY := $(abspath $(PEERS)/bin)/python
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo test check lint types layers docs build pytest bench bench-peers gpu-check cuda-report format clean

demo: $(VENV)/.demo
	$(BIN)/mi-estimators info
	$(BIN)/mi-estimators demo --out runs/demo

test: check pytest docs

check: lint types layers

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

types: $(VENV)/.test
	$(BIN)/mypy

layers: $(VENV)/.test
	$(BIN)/lint-imports

# Two worker processes with one thread each; tests of threading set their own number.
pytest: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) tests benchmarks

docs: $(VENV)/.test
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html

build: $(VENV)/.test

bench: $(VENV)/.test
	$(PY) -m benchmarks.run $(ARGS)

# A suite against the libraries that have what it measures: infonce takes half an hour on two cores, minutes with
# ARGS=--quick; SUITE=kde a quarter.
bench-peers: $(PEERS)/.peers
	$(PEERS_PY) -m benchmarks.run --suite $(SUITE) $(ARGS)

# For a machine with an NVIDIA GPU: uses the Python given, with torch, nvcc, ninja and pybind11 already there.
gpu-check:
	@$(PYTHON) -c "import setuptools as s; v = s.__version__; exit(int(v.split('.')[0]) < 77 and 'gpu-check: want setuptools >= 77, got ' + v)"
	MI_ESTIMATORS_BUILD=1 $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m benchmarks.gpu_check $(ARGS)

cuda-report: $(VENV)/.test
	$(PY) benchmarks/cuda_report.py

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist docs/_build *.egg-info mi_estimators/*.so

$(VENV)/.torch:
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -c "import torch" 2>/dev/null || $(PY) -m pip install --quiet "$(TORCH)" numpy
	$(PY) -m pip install --quiet "setuptools>=77" "pybind11>=2.13" ninja
	touch $@

# The CUDA library takes minutes to compile and serves a torch with CUDA only: the demo leaves it out elsewhere.
$(VENV)/.demo: $(VENV)/.torch $(SOURCES)
	test -e $(VENV)/.test || MI_ESTIMATORS_CUDA=$$($(PY) -c "import torch; print(int(bool(torch.version.cuda)))") \
	  $(PY) -m pip install --quiet --no-build-isolation -e ".[train,plots]"
	touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	MI_ESTIMATORS_BUILD=1 $(PY) -m pip install --quiet --no-build-isolation -e ".[all]"
	touch $@

# Our library is the one that $(VENV) has built in place. A peer that cannot be installed is left out, not the rest.
$(PEERS)/.peers: benchmarks/peers.txt $(VENV)/.test
	test -x $(PEERS_PY) || $(PYTHON) -m venv $(PEERS)
	$(PEERS_PY) -m pip install --quiet -r benchmarks/peers.txt || \
	  sed -n 's/[ #].*//; /./p' benchmarks/peers.txt | while read -r wanted; do \
	    $(PEERS_PY) -m pip install --quiet -c benchmarks/peers.txt "$$wanted" || echo "bench-peers: left out: $$wanted"; \
	  done
	MI_ESTIMATORS_BUILD=0 $(PEERS_PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@
