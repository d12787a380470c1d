// SPDX-License-Identifier: Apache-2.0
// Arguments of the kernels of generator layers. Channels of tensors are contiguous.
#pragma once

#include "../common/views.h"

namespace stylefast {

template <typename T>
struct InverseHaarTask {
  const T* x;          // [N, H, W, 4, C]
  const T* style;      // [N, 4, C]
  int64_t n, h, w, c;  // sizes
  T* out;              // [N, 2H, 2W, C]
};

template <typename T>
struct SeparableConvTask {
  const T* x;          // [N, H, W, C]
  int64_t n, h, w, c;  // sizes
  int64_t above;       // rows of zeros above x
  int64_t rows, d;     // sizes of the output
  const T* style;      // [N, C]
  const T* depthwise;  // [C, 3, 3]
  const T* pointwise;  // in the order of pack_pointwise()
  const T* bias;       // [padded D]
  const T* noise;      // [rows, W]
  T slope;             // of the leaky ReLU
  T* out;              // [N, rows, W, D]
};

}  // namespace stylefast
