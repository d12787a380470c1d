// SPDX-License-Identifier: Apache-2.0
// mma.m16n8k16 for a warp of fibers, with the register layout of the PTX manual. Like matrix units, this emulation
// truncates sums.
#pragma once

#include "cuda_runtime.h"

namespace on_cpu {

struct Operands {
  uint32_t a[4], b[2];
};

// Returns the operands of all lanes of this lane's warp, once every lane has called it with its own operands.
const Operands* exchange(const Operands& operands);

inline float truncated(double x) {
  const float rounded = static_cast<float>(x);
  return std::fabs(static_cast<double>(rounded)) > std::fabs(x) ? std::nextafterf(rounded, 0.0f) : rounded;
}

}  // namespace on_cpu

namespace stylefast {

template <typename S>
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const on_cpu::Operands* lanes = on_cpu::exchange({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const auto value = [](uint32_t pair, int i) {
    return static_cast<double>(widen(S{static_cast<uint16_t>(pair >> 16 * i)}));
  };
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int r = 0; r < 4; ++r) {
    const int m = lane / 4 + r / 2 * 8, n = lane % 4 * 2 + r % 2;
    double total = static_cast<double>(sum[r]);
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2;
      total += value(lanes[m % 8 * 4 + pair].a[k / 8 * 2 + m / 8], k % 2) * value(lanes[n * 4 + pair].b[k / 8], k % 2);
    }
    sum[r] = on_cpu::truncated(total);
  }
}

}  // namespace stylefast
