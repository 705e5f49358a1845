# Two commands for newcomers, each setting itself up from a fresh clone (a C++ compiler and Python >= 3.10 assumed):
#   make demo    build, search and compare with faiss PQ on real vectors (half a minute); writes demo/recall.png
#   make test    run all tests (9 minutes on two processors)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests of tensors from torch run where it can be had; `make test TORCH=` leaves it out.
TORCH ?= torch==2.13.0
STAMPS := $(VENV)/.stamps
FRAMEWORKS := .venv-frameworks
SCALE := .venv-scale
SOURCES := pyproject.toml $(wildcard vqindex/native/*)

.PHONY: demo test soak mutations frameworks scale docs example lint types wheel sanitize test-neon check clean

demo: $(STAMPS)/demo
	$(BIN)/vqindex demo --output demo

# So many processes share the tests; 0 runs them in one.
JOBS ?= 2
test: $(STAMPS)/test
	$(BIN)/pytest -m "not gpu and not scale" -n $(JOBS)

# Writes and reads files, stores and documents in many processes, kills and disturbs them, and looks for losses (tests/soak/).
# `SEED=` repeats the choices of a run.
SOAK_SECONDS ?= 600
soak: $(STAMPS)/test
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(SOAK_SECONDS) $(if $(SEED),--seed $(SEED),)
	PYTHONPATH=tests $(BIN)/python -m soak.documents --seconds $(SOAK_SECONDS) $(if $(SEED),--seed $(SEED),)

# Whether the tests notice small mistakes in the library; tests/mutations.py has the list and what may go unnoticed.
mutations: $(STAMPS)/test
	$(BIN)/python tests/mutations.py

# The site, into build/site: broken links, pages that no menu leads to and literal fences are errors.
docs: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_site.py build/site
	@echo "open build/site/index.html; its search needs a server: $(BIN)/python -m http.server --directory build/site"

# The example with its real model, over a few modules; and what it should find there.
ASK := $(BIN)/python examples/semantic_search.py --modules shutil threading json --index build/example.vqi -k 3 --query
example: $(STAMPS)/example
	mkdir -p build
	$(ASK) "copy a folder and all that is in it" > build/example.txt
	$(ASK) "wait until a thread is done" >> build/example.txt
	cat build/example.txt
	grep -q shutil.copytree build/example.txt && grep -q threading.Thread.join build/example.txt

# The retrieval frameworks' own tests of our stores, in an environment of their own: they bring plugins for pytest and
# much else. It sees the library, and what its tests need, through the one of `make test`.
frameworks: $(STAMPS)/frameworks
	VQINDEX_FRAMEWORKS=1 $(FRAMEWORKS)/bin/python -m pytest tests/frameworks \
	    -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function

# Indexes in buckets with obstore's store in memory, in an environment of their own, because obstore needs Python 3.11. It
# sees the library, and what its tests need, through the one of `make test`.
scale: $(STAMPS)/scale
	$(SCALE)/bin/python -m pytest -m "not gpu" -q tests/test_objects.py

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror vqindex/native/*.cpp vqindex/native/*.hpp vqindex/native/*.inl \
	    benchmarks/*.cpp gpu/vqindex_gpu/kernels/* tests/emulator/*.hpp tests/support/*.cpp
	! command -v clang++ > /dev/null || clang++ -std=c++17 -Wall -Wextra -Werror -fopenmp-simd -fsyntax-only \
	    $$(grep -L nanobind vqindex/native/*.cpp)

types: $(STAMPS)/test
	$(BIN)/mypy

# The sdist, the wheel built from it offline, and its use in an empty environment.
wheel: $(STAMPS)/test
	rm -rf dist build/wheel
	$(BIN)/python .ci/wheel.py dist build/wheel

# The kernels' tests with AddressSanitizer and UndefinedBehaviorSanitizer (GCC), in an environment of their own.
SANITIZERS = $(shell g++ -print-file-name=libasan.so) $(shell g++ -print-file-name=libstdc++.so.6)
sanitize:
	rm -rf build/sanitize && $(PYTHON) -m venv build/sanitize
	build/sanitize/bin/pip install --quiet --disable-pip-version-check "pytest>=8.2" "pytest-xdist>=3.6" "hypothesis>=6.100"
	CXX=g++ build/sanitize/bin/pip install --quiet --disable-pip-version-check . -C cmake.define.VQ_SANITIZE=ON \
	    -C install.strip=false -C build-dir=build/sanitize/cmake
	LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 VQINDEX_TEST_FUZZ=100 build/sanitize/bin/pytest -q -n $(JOBS) \
	    tests/test_scan.py tests/test_scan_records.py tests/test_bitplanes.py tests/test_records.py \
	    tests/test_native_encode.py tests/test_trellis.py tests/test_fuzz.py tests/test_range.py tests/test_selection.py \
	    tests/test_graph_native.py

# The kernels' tests on emulated 64-bit ARM; skips, saying so, where Debian's or Ubuntu's tools can't be had.
test-neon:
	.ci/neon

check: lint types test mutations frameworks scale docs example wheel sanitize

clean:
	rm -rf $(VENV) $(FRAMEWORKS) $(SCALE) build dist demo

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

# What an extra adds to the library that is installed already, which is not compiled again.
$(STAMPS)/docs: $(STAMPS)/test
	$(BIN)/pip install --quiet --disable-pip-version-check "vqindex[docs]"
	touch $@

# Its model needs torch: without TORCH it would bring in whichever is newest.
$(STAMPS)/example: $(STAMPS)/test
	$(if $(TORCH),$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)" "vqindex[example]",false)
	touch $@

$(STAMPS)/frameworks: $(STAMPS)/test
	rm -rf $(FRAMEWORKS) && $(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/pip install --quiet --disable-pip-version-check --upgrade "pip>=23.1"
	$(FRAMEWORKS)/bin/pip install --quiet --disable-pip-version-check $$($(BIN)/python tests/support/extras.py langchain llama-index haystack frameworks-test)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    $$($(FRAMEWORKS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vqindex-dev.pth
	touch $@

$(STAMPS)/scale: $(STAMPS)/test
	rm -rf $(SCALE) && $(PYTHON) -m venv $(SCALE)
	$(SCALE)/bin/pip install --quiet --disable-pip-version-check --upgrade "pip>=23.1"
	$(SCALE)/bin/pip install --quiet --disable-pip-version-check $$($(BIN)/python tests/support/extras.py s3)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    $$($(SCALE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vqindex-dev.pth
	touch $@
