# make train, make test: everything from a fresh clone, with Python >= 3.11, a C++20 compiler and make.
#
# VENV=path       the virtual environment to use or create       (.venv)
# VENV_TORCH=2.15 the torch to install there
# TORCH=2.11.0    the torch that `make smoke` tries, in an environment of its own
# MERAK_CUDA=...  see setup.py

PYTHON ?= python3
VENV ?= .venv
VENV_TORCH ?= 2.15
TORCH ?= $(VENV_TORCH)
JOBS ?= $(shell nproc)
EXTRAS ?= hf,viz,examples,planner,dev

PY := $(VENV)/bin/python
CORE := build/core
CXX_FILES = $(shell git ls-files --cached --others --exclude-standard '*.cpp' '*.h' '*.cu')
# cmake, ninja and clang-format come with the environment.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Ranks share the cores of one machine: more threads than one a rank only contend.
export OMP_NUM_THREADS ?= 1

.PHONY: help venv build builds train test test-slow test-core lint format sanitize fuzz conformance smoke docs bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make train        train a small GPT-2 over merak on four ranks of this machine
train: build
	$(VENV)/bin/torchrun --nproc-per-node 4 examples/train_language_model.py $(ARGS)

## make test         build, then the core's unit tests, then pytest
test: build test-core
	$(PY) -m pytest -m "not slow" tests $(ARGS)

## make test-slow    what `make test` leaves out: all models with all plans and meshes, the benchmarks' own tests; 2 hours
test-slow: build test-core
	$(PY) -m pytest -m slow tests $(ARGS)

## make venv         the virtual environment with torch, merak (editable) and the tools
venv: $(VENV)/.merak-installed

$(PY):
	@tools/need python3-venv $(PYTHON) -c 'import ensurepip'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "merak needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.merak-installed: pyproject.toml | $(PY)
	@tools/need python3-dev $(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
	@echo "Installing torch and the tools, then building merak: some 10 minutes on two cores, and only once."
	$(PY) -m pip install -q "setuptools>=77" wheel ninja numpy "torch==$(VENV_TORCH).*"
	$(PY) -m pip install -q --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@

## make build        the extension module, incrementally
build: venv
	@$(PY) setup.py -q build_ext --inplace

## make builds       both kinds of build, without CUDA and (where nvcc is found) with it: compile, link, import
builds: build
	@MERAK_CUDA=0 $(PY) setup.py -q build --build-lib build/without-cuda
	@cd build/without-cuda && $(abspath $(PY)) -c "import merak._C; from merak import _build_info as b; assert b.cuda is None"
	@MERAK_CUDA=$(if $(shell command -v $${CUDA_HOME:+$$CUDA_HOME/bin/}nvcc),1,0) $(PY) setup.py -q build_ext --inplace
	@$(PY) -c "import merak._C; from merak import _build_info as b; print('built without CUDA and with CUDA', b.cuda)"

## make test-core    the plain C++ core's unit tests (GoogleTest)
test-core: $(CORE)/build.ninja
	@cmake --build $(CORE) -j $(JOBS) --target merak_core_test
	$(CORE)/merak_core_test --gtest_brief=1

$(CORE)/build.ninja: CMakeLists.txt | venv
	$(configure)

# Sets up the build in the target's folder; $(1) are more definitions.
define configure
	@tools/need libgtest-dev test -e /usr/include/gtest/gtest.h -o -e /usr/local/include/gtest/gtest.h
	@cmake -B $(@D) -G Ninja $(1) >/dev/null
endef

## make lint         ruff, mypy, clang-format, function lengths
lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@echo clang-format; clang-format --dry-run --Werror $(CXX_FILES)
	$(PY) -m pytest -q tests/structure

## make format       rewrites the sources as `make lint` wants them
format: venv
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	@clang-format -i $(CXX_FILES)

## make sanitize     the core's tests under ASan + UBSan, and under TSan
sanitize: build/asan/build.ninja build/tsan/build.ninja
	cmake --build build/asan -j $(JOBS) && build/asan/merak_core_test --gtest_brief=1
	cmake --build build/tsan -j $(JOBS) && build/tsan/merak_core_test --gtest_brief=1

build/asan/build.ninja: CMakeLists.txt | venv
	$(call configure,-DMERAK_SANITIZE=address$(comma)undefined)

build/tsan/build.ninja: CMakeLists.txt | venv
	$(call configure,-DMERAK_SANITIZE=thread)

comma := ,

## make fuzz         every libFuzzer target for SECONDS (60) seconds
SECONDS ?= 60
fuzz: venv
	@tools/need clang clang++ --version
	cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DMERAK_FUZZ=ON -DMERAK_SANITIZE=address,undefined
	cmake --build build/fuzz -j $(JOBS)
	@set -e; for target in build/fuzz/*_fuzz; do \
	  name=$$(basename $$target); corpus=build/fuzz/corpus/$$name; mkdir -p $$corpus; \
	  seeds=fuzz/seeds/$$name; test -d $$seeds || seeds=; \
	  echo "== $$name"; $$target -max_total_time=$(SECONDS) -print_final_stats=1 $$corpus $$seeds; done

## make conformance  torch's own backend tests, on merak
conformance: build
	$(PY) -m tests.conformance.run $(ARGS)

## make smoke        sdist, built in a clean environment with TORCH=x.y.z, and two ranks over it
smoke: venv
	$(PY) tests/packaging/clean_install.py --torch $(TORCH) --environment .smoke/$(TORCH)

## make docs         writes the pages that are generated
docs: build
	PYTHONPATH=. $(PY) tools/environment_page.py

## make bench        the collectives beside Gloo's, on the test bed (root, iproute2)
bench: build
	$(VENV)/bin/merak bench collectives $(ARGS)

clean:
	rm -rf build dist *.egg-info merak/*.so merak/_build_info.py
