// SPDX-License-Identifier: Apache-2.0
// Matrix instruction of Ampere and later: multiplies 16-bit matrices [16, 16] and [16, 8] and adds in float32.
#pragma once

#include "tile.cuh"

#ifndef __CUDACC__
#include <emulated_mma.h>  // tests run the kernels on a CPU
#endif

namespace stylefast {

#ifdef __CUDACC__
// sum[m, n] += sum over k of a[m, k] b[k, n], with m < 16, n < 8, k < 16. A register of a or b holds the elements k and
// k + 1; the list gives k. Lane 4 g + t holds
//   a[m, k]: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   b[k, n]: (2t, g), (2t + 8, g)
//   sum[m, n]: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
template <typename S>
__device__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<S, half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}
#endif

}  // namespace stylefast
