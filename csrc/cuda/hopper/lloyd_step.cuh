// SPDX-License-Identifier: Apache-2.0
// lloyd_step on Hopper, for raw 16-bit activations with contiguous planes. docs/hopper.md describes the kernel.
#pragma once

#include "../score.cuh"

namespace stylefast::hopper {

// Outputs of lloyd_step.
struct Outputs {
  int32_t* labels;    // [B, N, H, W]
  float* sums;        // [B, K, C]
  int64_t* counts;    // [B, K]
  double* objective;  // [B]
};

// Whether lloyd_step uses the Hopper kernel. It does so only if the environment variable STYLEFAST_HOPPER is 1, because
// no GPU has measured it.
template <typename S>
bool wanted(const Points<S>& points);

// Fills the outputs. `activations` is the tensor of `points.a`.
template <typename S>
void lloyd_step(const Device& device, const Tensor& activations, const Points<S>& points, const Outputs& outputs);

}  // namespace stylefast::hopper
