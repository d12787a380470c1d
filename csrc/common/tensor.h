// SPDX-License-Identifier: Apache-2.0
// Helpers around torch's stable ABI that all ops share: element types, views of tensors, dispatch, parallel loops.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "views.h"

namespace stylefast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
inline constexpr ScalarType kScalarType = ScalarType::Float;
template <>
inline constexpr ScalarType kScalarType<double> = ScalarType::Double;
template <>
inline constexpr ScalarType kScalarType<uint16_t> = ScalarType::UInt16;
template <>
inline constexpr ScalarType kScalarType<int32_t> = ScalarType::Int;
template <>
inline constexpr ScalarType kScalarType<int64_t> = ScalarType::Long;

template <typename T>
struct Type {
  using type = T;
};

// Calls f(Type<S>{}), where S is the element type of a floating-point tensor.
template <typename F>
auto dispatch(const Tensor& tensor, F&& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return f(Type<double>{});
    case ScalarType::Half:
      return f(Type<half>{});
    case ScalarType::BFloat16:
      return f(Type<bfloat16>{});
    default:
      STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, "expected a floating tensor");
      return f(Type<float>{});
  }
}

// torch::stable::contiguous takes several microseconds also for a contiguous tensor, because it uses the dispatcher.
inline Tensor make_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Uninitialised contiguous tensor. torch::stable::new_empty takes several microseconds, because it uses the dispatcher.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType type, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(1, sizes[i]);
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

template <typename T>
Tensor empty(const std::vector<int64_t>& sizes, const Tensor& like) {
  return empty(sizes, kScalarType<T>, like);
}

template <typename S>
Activations<S> activations_view(const Tensor& a) {
  return {data<S>(a), a.size(0), a.size(1), a.size(2), a.size(3), a.stride(0), a.stride(1), a.stride(2), a.stride(3)};
}

inline Features parse_features(const std::string& name) {
  STD_TORCH_CHECK(name == "raw" || name == "standardized" || name == "squared", "unknown features ", name);
  return name == "raw" ? Features::kRaw : name == "squared" ? Features::kSquared : Features::kStandardized;
}

// Least work of a part, in vectorised additions and multiplications. It takes about as long as it takes to wake a
// thread. The sanitizers set it to 1, so that small inputs run on several threads.
#ifndef STYLEFAST_PART_WORK
#define STYLEFAST_PART_WORK (1 << 18)
#endif
inline constexpr int64_t kPartWork = STYLEFAST_PART_WORK;

// Number of parts into which `units` of work are divided: one per thread, but at most one per unit and per kPartWork.
// `work` is the number of additions and multiplications; those of slow loops count several times.
inline int64_t parts_for(int64_t units, int64_t work) {
  const int64_t threads = torch::stable::get_num_threads();
  return std::max<int64_t>(1, std::min({threads, units, work / kPartWork}));
}

// Runs f(part) for every part, in parallel. The work of a part depends only on `parts`, not on the scheduling, so
// results are bitwise repeatable. One part runs on the calling thread.
template <typename F>
void parallel(int64_t parts, const F& f) {
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) f(part);
  });
}

}  // namespace stylefast
