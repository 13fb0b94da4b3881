# make demo: the whole walk on the built-in model.   make test: the test suite.   make check: ruff and mypy.
# make docs: the docs site, in build/site.
# make bench: timings, beside those in reports/measured.   make sanitize: kernel tests under the address and undefined-behaviour sanitizers.
# TORCH_INDEX=<url> is passed to pip, e.g. PyTorch's index of CPU builds.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --disable-pip-version-check --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
JOBS ?= 2
BENCH := .benchmarks

.PHONY: demo test check docs bench sanitize clean
.DELETE_ON_ERROR:

demo: $(VENV)/capture.installed
	$(VENV)/bin/xmsim demo --out xmsim-demo

test: $(VENV)/dev.installed
	$(VENV)/bin/pytest -n $(JOBS)

bench: $(VENV)/dev.installed
	mkdir -p $(BENCH)
	$(VENV)/bin/pytest benchmarks --benchmark-columns=median,iqr,rounds --benchmark-json=$(BENCH)/pytest.json
	$(VENV)/bin/python benchmarks/record.py $(BENCH)/pytest.json $(BENCH)/timings.json
	$(VENV)/bin/python benchmarks/llama_prefill.py --out $(BENCH)/llama_prefill.json
	$(VENV)/bin/python benchmarks/compare_records.py $(BENCH)/timings.json $(BENCH)/llama_prefill.json

# needs cmake and a C++ compiler; the preloaded runtimes break nvcc and the compiler of torch.compile, and say more of a crash than a test of one expects
sanitize: $(VENV)/dev.installed
	cmake -S . -B build/sanitize -DXMSIM_SANITIZE=ON
	cmake --build build/sanitize
	XMSIM_CPU_LIBRARY=build/sanitize/libxmsim_cpu.so ASAN_OPTIONS=detect_leaks=0 CXXFLAGS=-fsanitize=address \
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	$(VENV)/bin/pytest tests/reference/kernels -n $(JOBS) -k "not compile and not fails_hangs and not (test_build and early)"

check: $(VENV)/dev.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/dev.installed
	$(VENV)/bin/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("xmsim needs Python 3.11 or later: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

NATIVE := CMakeLists.txt $(wildcard reference/kernels/cpu/*)

$(VENV)/capture.installed: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(PIP) -e ".[capture]"
	touch $@

$(VENV)/dev.installed: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(PIP) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
