// SPDX-License-Identifier: Apache-2.0
// Included before every source of csrc/cuda. It registers the ops for CPU tensors, which need no device guard.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace torch::stable::accelerator {
struct NoGuard {
  explicit NoGuard(int32_t) {}
};
}  // namespace torch::stable::accelerator

#define DeviceGuard NoGuard
#define CUDA CPU
