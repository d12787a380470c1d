// SPDX-License-Identifier: Apache-2.0
// in_range: the check of indices on the CPU, in one pass.
#include "../common/tensor.h"

namespace stylefast {
namespace {

template <typename T>
bool rows_in_range(const Tensor& index, const std::vector<int64_t>& counts) {
  const Tensor rows = make_contiguous(index);
  const T* values = data<T>(rows);
  const int64_t width = static_cast<int64_t>(counts.size()), size = rows.numel();
  bool outside = false;
  for (int64_t i = 0; i < size; i += width) {
    for (int64_t j = 0; j < width; ++j) outside |= values[i + j] < 0 || values[i + j] >= counts[j];
  }
  return !outside;
}

// (index [.., n], counts [n]) -> whether 0 <= index[.., j] < counts[j] for all j
bool in_range(const Tensor& index, const std::vector<int64_t>& counts) {
  switch (index.scalar_type()) {
    case ScalarType::Long:
      return rows_in_range<int64_t>(index, counts);
    case ScalarType::Short:
      return rows_in_range<int16_t>(index, counts);
    case ScalarType::Byte:
      return rows_in_range<uint8_t>(index, counts);
    case ScalarType::Char:
      return rows_in_range<int8_t>(index, counts);
    default:
      STD_TORCH_CHECK(index.scalar_type() == ScalarType::Int, "expected an integer tensor");
      return rows_in_range<int32_t>(index, counts);
  }
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("in_range", TORCH_BOX(&stylefast::in_range)); }
