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

inline constexpr int64_t kColumns = 32;  // output channels per block of the weights of winograd_conv

template <typename T>
struct WinogradConvTask {
  const T* x;            // [N, H, W, C]
  int64_t n, h, w, c;    // sizes
  int64_t p, d;          // phases per axis, output channels
  const T* style;        // [N, C]
  const T* weight;       // [p, p, D / kColumns rounded up, 36, C, kColumns]
  const T* scale;        // [N, D]
  const T* bias;         // [D]
  const T* noise;        // [pH, pW]
  T slope, gain, clamp;  // of the activation
  T* out;                // [N, pH, pW, D]
};

}  // namespace stylefast
