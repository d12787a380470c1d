// SPDX-License-Identifier: Apache-2.0
// separable_conv on the CPU: packs the weights, then divides the tiles of all images among threads.
#include "../common/tensor.h"
#include "layers.h"
#include "tasks.h"

#define STYLEFAST_KERNEL "separable_conv.kernel.h"
#include "isa.h"

namespace stylefast {
namespace {

template <typename T>
Tensor run(const Tensor& x, const Tensor& style, const Tensor& depthwise, const Tensor& pointwise, const Tensor& bias,
           const Tensor& noise, int64_t above, double slope) {
  const int64_t n = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3), d = pointwise.size(1);
  const int64_t rows = noise.size(0);
  const Tensor out = empty<T>({n, rows, w, d}, x);
  const Buffer<T> packed(padded<T>(c) * padded<T>(d)), padded_bias(padded<T>(d));
  STYLEFAST_PICK(pack_pointwise<T>)(data<T>(pointwise), c, d, packed);
  std::copy_n(data<T>(bias), d, padded_bias + 0);
  std::fill(padded_bias + d, padded_bias + padded<T>(d), T(0));
  const SeparableConvTask<T> task{data<T>(x),
                                  n,
                                  h,
                                  w,
                                  c,
                                  above,
                                  rows,
                                  d,
                                  data<T>(style),
                                  data<T>(depthwise),
                                  packed,
                                  padded_bias,
                                  data<T>(noise),
                                  static_cast<T>(slope),
                                  mutable_data<T>(out)};
  const auto kernel = STYLEFAST_PICK(separable_conv_kernel<T>);
  const int64_t positions = n * rows * w;
  const int64_t parts = parts_for((positions + 15) / 16, positions * c * (2 * d + 18) / 16);
  parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
  return out;
}

// (x [N,H,W,C], style [N,C], depthwise [C,3,3], pointwise [C,D], bias [D], noise [H',W], above, below, slope)
// -> [N,H',W,D]
Tensor separable_conv(const Tensor& x, const Tensor& style, const Tensor& depthwise, const Tensor& pointwise,
                      const Tensor& bias, const Tensor& noise, int64_t above, int64_t, double slope) {
  const auto call = x.scalar_type() == ScalarType::Double ? run<double> : run<float>;
  return call(make_contiguous(x), make_contiguous(style), make_contiguous(depthwise), make_contiguous(pointwise),
              make_contiguous(bias), make_contiguous(noise), above, slope);
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("separable_conv_cpu", TORCH_BOX(&stylefast::separable_conv)); }
