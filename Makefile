# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
NATIVE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
BATTERY := $(patsubst %,tests/ops/test_%.py,battery edge_cases assign_laws contribution_laws membership_laws blend_laws)

# The environment with the oldest versions that pyproject.toml allows. Its Python 3.12 comes from pyenv if possible,
# otherwise from the PATH.
OLDEST_PYTHON ?= $(firstword $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.12.*/bin/python3.12) python3.12)
OLDEST := .venv-oldest/bin

# Runs a tool of tests/kernels, with its imports on PYTHONPATH.
KERNELS := PYTHONPATH=.:benchmarks:tests/support $(BIN)/python tests/kernels

.PHONY: test oldest triton triton-aot cuda gpu gpu-rehearsal rehearsal sanitize fuzz fuzz-minute lint docs wheel demo bench

# With REQUIRE=browser, the tests of the page fail if there is no browser. Otherwise they are skipped.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --durations=40 $(REQUIRE:%=--require %)

# Compiles the CPU kernels against the oldest torch, with warnings as errors, installs the package, and runs one shard
# of the battery. Then compiles the main Triton kernels with the oldest Triton, and checks their resources.
oldest: .venv-oldest/installed
	$(OLDEST)/pytest -q -n 2 --require cpu -k cpu --shard 1/6 $(BATTERY)
	$(OLDEST)/pytest -q --require cpu tests/core/test_private_torch.py tests/kmeans/test_estimator.py
	PYTHONPATH=benchmarks $(OLDEST)/python tests/kernels/triton_oldest.py

# Tests the Triton kernels on CPU tensors, in Triton's interpreter. Five kinds of tests are omitted: tests that need
# minutes in the interpreter; tests of bitwise repeatability, which show nothing because the interpreter runs programs
# one after the other; tests that are the same for all backends, such as the registration of operators; ties of float16,
# because bfloat16 takes the same path; and layers in channels_last, because the strides of samples vary, too. One
# process runs all tests, because further ones would spend a tenth of the time on imports.
TRITON_OMITS := same_bits or surroundings or large_layers or caches_hold or as_interpolate_would or \
    the_resize_of_labels or (exact_ties and (squared or float16 and not bfloat16)) or compiles_once or \
    (opcheck and not (bfloat16 or 5x7x1x1)) or (many_clusters and (raw or 3-210)) or \
    (layers_of_all_sizes and (channels_last or shape2)) or (is_the_sequence and shape2)
triton: .venv/installed
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q --require triton -k "triton and not ($(TRITON_OMITS))" $(BATTERY)

# Compiles the Triton kernels for several GPUs, which need not be present, and compares the resources of the kernels
# with tests/kernels/triton_resources.json.
triton-aot: .venv/installed
	$(KERNELS)/triton_aot.py

# Checks the CUDA kernels without a GPU. First, nvcc compiles them against the oldest torch for three GPUs, and the
# resources and the work of the kernels are compared with tests/kernels/cuda_resources.json and cuda_work.json. Then the
# kernels are compiled for the CPU against the newest torch, to check their shared memory, to run the battery, and to
# run threads in other orders.
cuda: .venv/installed .venv-oldest/requirements
	$(KERNELS)/cuda_aot.py --python $(OLDEST)/python
	$(KERNELS)/cuda_on_cpu.py shared
	$(KERNELS)/cuda_on_cpu.py battery
	$(KERNELS)/cuda_on_cpu.py order
	$(KERNELS)/cuda_hopper.py

# Tests and measures on a machine with an NVIDIA GPU. It uses the installed packages (PYTHON) and downloads nothing.
# docs/gpu.md explains OUT and STAGES.
gpu:
	PYTHON="$(PYTHON)" benchmarks/gpu.sh

# Runs every script of `make gpu` on a CPU, with the oldest versions. The measured numbers have no meaning.
gpu-rehearsal: .venv-oldest/requirements
	PYTHON=$(OLDEST)/python benchmarks/gpu.sh --rehearse

# Runs `make gpu-rehearsal` in a copy of the source tree without .git, as another user, with the libraries that the
# target `cuda` compiled.
rehearsal: cuda
	tests/benchmarks/rehearse_elsewhere.sh

# Runs the CPU kernels under sanitizers.
sanitize: .venv/installed
	$(KERNELS)/sanitize.py

# Tests random calls of all ops against float64, and random mutations of all files, for SECONDS. A failure prints the
# command that repeats its case. SEED selects the cases, and is random by default. CI runs `fuzz-minute`.
SECONDS ?= 300
fuzz: .venv/installed
	PYTHONPATH=.:tests/support $(BIN)/python tests/fuzz --seconds $(SECONDS) $(SEED:%=--seed %)

fuzz-minute: SECONDS = 60
fuzz-minute: SEED = 1
fuzz-minute: fuzz

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=. $(BIN)/pyright --pythonpath $(BIN)/python --ignoreexternal --verifytypes stylefast --outputjson | \
	    $(BIN)/python tests/package/known_types.py 0.95
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) benchmarks/limits.cpp tests/kernels/sanitize.h \
	    $(wildcard tests/kernels/on_cpu/*)
	$(BIN)/python benchmarks/documents.py --check

# Builds the website of docs into build/docs, with warnings as errors.
docs: .venv/docs
	$(BIN)/sphinx-build --quiet --fresh-env --keep-going --fail-on-warning docs build/docs

# Builds a source archive and, from it, a wheel.
wheel: .venv/installed
	$(BIN)/python -m build --no-isolation

demo: .venv/installed
	$(BIN)/stylefast demo --outdir demo

# Measures this machine and records every figure as soon as it is known. The fit of 128 clusters is left out, because
# scikit-learn takes six minutes for it: `bench_fit.py --clusters 128 --record`.
bench: .venv/installed .venv/bench
	$(BIN)/python benchmarks/bench_engines.py --record
	$(BIN)/python benchmarks/bench_output.py --record
	$(BIN)/python benchmarks/bench_fit.py --clusters 20 --seeds 1 --record
	$(BIN)/python benchmarks/peers.py --record
	$(BIN)/python benchmarks/bench_calls.py --record
	$(BIN)/python benchmarks/bench_recipes.py --record
	$(BIN)/python benchmarks/bench_editing.py --network random-face --images 64 --record
	$(BIN)/python benchmarks/documents.py --write --summary

# torch is installed first, so that no later requirement selects another version.
.venv/requirements: requirements-test.txt Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(TORCH)
	$(BIN)/pip install -r requirements-test.txt
	touch $@

.venv-oldest/requirements: requirements-oldest.txt
	$(OLDEST_PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install torch==2.11.0
	$(OLDEST)/pip install -r requirements-oldest.txt
	touch $@

# -O1 compiles in less time. CI judges the warnings that need more optimisation in .venv/installed.
.venv-oldest/installed: .venv-oldest/requirements pyproject.toml setup.py $(NATIVE) $(shell find stylefast -name '*.py')
	rm -rf build/lib*
	STYLEFAST_CUDA=0 CXXFLAGS="-O1 -Werror" $(OLDEST)/pip install --no-build-isolation --no-deps --force-reinstall .
	touch $@

.venv/bench: .venv/requirements requirements-bench.txt
	$(BIN)/pip install -r requirements-bench.txt
	touch $@

.venv/docs: requirements-docs.txt | .venv/installed  # two runs of pip must not overlap
	$(BIN)/pip install -r requirements-docs.txt
	touch $@

# CI sets WARNINGS=-Werror. It does not change the machine code.
.venv/installed: .venv/requirements pyproject.toml setup.py $(NATIVE)
	CXXFLAGS="$(CXXFLAGS) $(WARNINGS)" $(BIN)/pip install --no-build-isolation -e .
	touch $@
