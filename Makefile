# Two commands for newcomers, each setting itself up from a fresh clone (a C++ compiler and Python >= 3.10 assumed):
#   make demo    build, search and compare with faiss PQ on real vectors; writes demo/recall.png
#   make test    run all tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests of tensors from torch run where it can be had; `make test TORCH=` leaves it out.
TORCH ?= torch==2.13.0
STAMPS := $(VENV)/.stamps
SOURCES := pyproject.toml $(wildcard vqindex/native/*)

.PHONY: demo test lint types wheel sanitize check clean

demo: $(STAMPS)/demo
	$(BIN)/vqindex demo --output demo

test: $(STAMPS)/test
	$(BIN)/pytest -m "not gpu"

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror vqindex/native/*.cpp vqindex/native/*.hpp vqindex/native/*.inl \
	    benchmarks/*.cpp gpu/vqindex_gpu/kernels/* tests/emulator/*.hpp

types: $(STAMPS)/test
	$(BIN)/mypy

# The wheel, installed into an empty environment and used there.
wheel: $(STAMPS)/test
	rm -rf dist && $(BIN)/python -m build --outdir dist . > dist.log 2>&1 || (cat dist.log; exit 1)
	rm -f dist.log && rm -rf build/wheel-venv && $(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/wheel-venv && bin/vqindex demo --quick --no-plot --output demo && bin/vqindex verify demo/glove-default-4.vqi

# The kernels' tests with AddressSanitizer and UndefinedBehaviorSanitizer (GCC), in an environment of their own.
SANITIZERS = $(shell g++ -print-file-name=libasan.so) $(shell g++ -print-file-name=libstdc++.so.6)
sanitize:
	rm -rf build/sanitize && $(PYTHON) -m venv build/sanitize
	build/sanitize/bin/pip install --quiet --disable-pip-version-check "pytest>=8.2" "hypothesis>=6.100"
	CXX=g++ build/sanitize/bin/pip install --quiet --disable-pip-version-check . -C cmake.define.VQ_SANITIZE=ON \
	    -C install.strip=false -C build-dir=build/sanitize/cmake
	LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 build/sanitize/bin/pytest -q \
	    tests/test_scan.py tests/test_allowed.py tests/test_range.py tests/test_changes.py tests/test_planes.py \
	    tests/test_native_encode.py tests/test_trellis.py

check: lint types test wheel sanitize

clean:
	rm -rf $(VENV) build dist demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=23.1"

$(STAMPS)/demo: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[faiss,plot]"
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: $(SOURCES) | $(VENV)/bin/python
	$(if $(TORCH),$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)",)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev,faiss,plot]"
	mkdir -p $(STAMPS) && touch $@
