// SPDX-License-Identifier: Apache-2.0
// Included before every source of csrc/cuda. It registers the ops for CPU tensors, which need no device guard.
// cuda_emulation.py precompiles it with all headers of torch that the sources include.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/shim_utils.h>

#include "cuda_runtime.h"

namespace torch::stable::accelerator {
struct NoGuard {
  explicit NoGuard(int32_t) {}
};
}  // namespace torch::stable::accelerator

#define DeviceGuard NoGuard
#define CUDA CPU
