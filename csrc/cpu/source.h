// SPDX-License-Identifier: Apache-2.0
// Tensors for ops that read activations by packed tiles: compiled for the type in which they compute, not the
// element's.
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

// Calls f(Type<T>{}) with the type in which a kernel computes for the tensor's elements.
template <typename F>
auto dispatch_computing(const Tensor& tensor, F&& f) {
  if (tensor.scalar_type() == ScalarType::Double) return f(Type<double>{});
  return f(Type<float>{});
}

}  // namespace stylefast
