// SPDX-License-Identifier: Apache-2.0
// Views, dispatch and reductions for ops that read activations in packed tiles. These ops are compiled once per
// computing type (float or double), not per element type, because packing converts the elements.
#pragma once

#include "../common/tensor.h"
#include "tasks.h"

namespace stylefast {

inline Source source(const Tensor& a) {
  const ScalarType type = a.scalar_type();
  return {{a.const_data_ptr(), a.size(0), a.size(1), a.size(2), a.size(3), a.stride(0), a.stride(1), a.stride(2),
           a.stride(3)},
          type == ScalarType::Double     ? Element::kDouble
          : type == ScalarType::Half     ? Element::kHalf
          : type == ScalarType::BFloat16 ? Element::kBfloat16
                                         : Element::kFloat};
}

// The images [begin, begin + count).
inline Source images(Source a, int64_t begin, int64_t count) {
  a.data = static_cast<const char*>(a.data) + begin * a.stride_n * a.element_size();
  a.n = count;
  return a;
}

// Calls f(Type<T>{}), where T is the type in which kernels compute for the elements of the tensor.
template <typename F>
auto dispatch_computing(const Tensor& tensor, F&& f) {
  if (tensor.scalar_type() == ScalarType::Double) return f(Type<double>{});
  return f(Type<float>{});
}

// to [rows, width] = scale * (sum over parts of sums [parts, rows, stride]). The sums are added in place, in the order
// of parts.
template <typename T>
void reduce_parts(double* sums, int64_t parts, int64_t rows, int64_t width, int64_t stride, double scale, T* to) {
  const int64_t size = rows * stride;
  for (int64_t p = 1; p < parts; ++p) {
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[p * size + i];
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) to[r * width + c] = static_cast<T>(sums[r * stride + c] * scale);
  }
}

}  // namespace stylefast
