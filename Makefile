# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
NATIVE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
BATTERY := $(patsubst %,tests/ops/test_%.py,battery edge_cases assign_laws contribution_laws blend_laws)

# The oldest versions that pyproject.toml promises, on another Python: the one of the pyenv here, or of the PATH.
OLDEST_PYTHON ?= $(firstword $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.12.*/bin/python3.12) python3.12)
OLDEST := .venv-oldest/bin

# The tools of tests/kernels, and what they import.
KERNELS := PYTHONPATH=.:benchmarks:tests/support $(BIN)/python tests/kernels

.PHONY: test oldest triton triton-aot cuda gpu gpu-rehearsal rehearsal sanitize lint demo bench

test: .venv/installed
	$(BIN)/python -m pytest -n 2

# The CPU kernels compiled against the oldest torch, warnings being errors, and installed; one shard of their battery.
oldest: .venv-oldest/installed
	$(OLDEST)/pytest -q -n 2 --require cpu -k cpu --shard 1/6 $(BATTERY)
	$(OLDEST)/pytest -q --require cpu tests/core/test_private_torch.py tests/kmeans/test_estimator.py

# Triton's kernels on CPU tensors, in its interpreter. It leaves out what takes the interpreter minutes, bitwise
# repeatability, of which it says nothing because it runs one program after the other, and what the other backends test
# for all, as the operators' registration.
TRITON_OMITS := same_bits or surroundings or large_layers or many_clusters or caches_hold or as_interpolate_would or \
    the_resize_of_labels or (exact_ties and squared) or compiles_once or (opcheck and not (bfloat16 or 5x7x1x1)) or \
    same-3x3x64x131 or (assign-triton and 3x3x64x131)
triton: .venv/installed
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n 2 --require triton -k "triton and not ($(TRITON_OMITS))" \
	    $(BATTERY)

# The same kernels compiled for GPUs that are not here; what they need is compared with tests/kernels/triton_resources.json.
triton-aot: .venv/installed
	$(KERNELS)/triton_aot.py

# The CUDA kernels without a GPU: compiled by nvcc against the oldest torch for three, what they need compared with
# tests/kernels/cuda_resources.json; and compiled for this processor against the newest, the battery, and the order in which
# their threads run.
cuda: .venv/installed .venv-oldest/requirements
	$(KERNELS)/cuda_aot.py --python $(OLDEST)/python
	$(KERNELS)/cuda_on_cpu.py shared
	$(KERNELS)/cuda_on_cpu.py battery
	$(KERNELS)/cuda_on_cpu.py order

# On a machine with an NVIDIA GPU: uses what is installed (PYTHON), downloads nothing. OUT and STAGES: docs/gpu.md.
gpu:
	PYTHON="$(PYTHON)" benchmarks/gpu.sh

# The stages of `make gpu` on a CPU, with the oldest versions: their figures mean nothing, but every script runs.
gpu-rehearsal: .venv-oldest/requirements
	PYTHON=$(OLDEST)/python benchmarks/gpu.sh --rehearse

# The same in a copy of the source tree without .git, as another user, with the libraries that `make cuda` compiled.
rehearsal: cuda
	tests/benchmarks/rehearse_elsewhere.sh

sanitize: .venv/installed
	$(KERNELS)/sanitize.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=. $(BIN)/pyright --pythonpath $(BIN)/python --ignoreexternal --verifytypes stylefast --outputjson | \
	    $(BIN)/python tests/package/known_types.py 0.95
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) benchmarks/limits.cpp tests/kernels/sanitize.h \
	    $(wildcard tests/kernels/on_cpu/*)
	$(BIN)/python benchmarks/readme.py --check

demo: .venv/installed
	$(BIN)/stylefast demo --outdir demo

bench: .venv/installed .venv/bench
	$(BIN)/python benchmarks/peers.py --record
	$(BIN)/python benchmarks/bench_calls.py --record
	$(BIN)/python benchmarks/bench_fit.py --seeds 5 --record
	$(BIN)/python benchmarks/bench_recipes.py --record
	$(BIN)/python benchmarks/bench_editing.py --network random-face --images 64 --record
	$(BIN)/python benchmarks/bench_scale.py overhead --record
	$(BIN)/python benchmarks/readme.py

# torch goes first, so that no later requirement picks another one.
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

.venv-oldest/installed: .venv-oldest/requirements pyproject.toml setup.py $(NATIVE) $(shell find stylefast -name '*.py')
	rm -rf build/lib*
	STYLEFAST_CUDA=0 CXXFLAGS=-Werror $(OLDEST)/pip install --no-build-isolation --no-deps --force-reinstall .
	touch $@

.venv/bench: .venv/requirements requirements-bench.txt
	$(BIN)/pip install -r requirements-bench.txt
	touch $@

.venv/installed: .venv/requirements pyproject.toml setup.py $(NATIVE)
	$(BIN)/pip install --no-build-isolation -e .
	touch $@
