// SPDX-License-Identifier: Apache-2.0
// inverse_haar on the CPU: divides the rows of all images among threads.
#include "../common/tensor.h"
#include "layers.h"

#define STYLEFAST_KERNEL "inverse_haar.kernel.h"
#include "isa.h"

namespace stylefast {
namespace {

template <typename T>
Tensor run(const Tensor& x, const Tensor& style) {
  const int64_t n = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3) / 4;
  const Tensor out = empty<T>({n, 2 * h, 2 * w, c}, x);
  const InverseHaarTask<T> task{data<T>(x), data<T>(style), n, h, w, c, mutable_data<T>(out)};
  const auto kernel = STYLEFAST_PICK(inverse_haar_kernel<T>);
  const int64_t parts = parts_for(n * h, 16 * n * h * w * c);
  parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
  return out;
}

// (x [N,H,W,4C], style [N,4C]) -> [N,2H,2W,C]
Tensor inverse_haar(const Tensor& x, const Tensor& style) {
  const Tensor rows = make_contiguous(x), styles = make_contiguous(style);
  return x.scalar_type() == ScalarType::Double ? run<double>(rows, styles) : run<float>(rows, styles);
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("inverse_haar_cpu", TORCH_BOX(&stylefast::inverse_haar)); }
