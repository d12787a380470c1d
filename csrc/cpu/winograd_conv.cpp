// SPDX-License-Identifier: Apache-2.0
// winograd_conv on the CPU: divides pairs of a run of tiles and a block of output channels among threads.
#include "../common/tensor.h"
#include "layers.h"

#define STYLEFAST_KERNEL "winograd_conv.kernel.h"
#include "isa.h"

namespace stylefast {
namespace {

template <typename T>
Tensor run(const Tensor& x, const Tensor& style, const Tensor& weight, const Tensor& scale, const Tensor& bias,
           const Tensor& noise, double slope, double gain, double clamp) {
  const int64_t n = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3), d = bias.size(0);
  const int64_t phases = weight.size(0), blocks = weight.size(1);
  const Tensor out = empty<T>({n, noise.size(0), noise.size(1), d}, x);
  const WinogradConvTask<T> task{data<T>(x),
                                 n,
                                 h,
                                 w,
                                 c,
                                 phases == 1 ? 1 : 2,
                                 d,
                                 data<T>(style),
                                 data<T>(weight),
                                 data<T>(scale),
                                 data<T>(bias),
                                 data<T>(noise),
                                 static_cast<T>(slope),
                                 static_cast<T>(gain),
                                 static_cast<T>(clamp),
                                 mutable_data<T>(out)};
  const auto kernel = STYLEFAST_PICK(winograd_conv_kernel<T>);
  const int64_t tiles = n * ((h + 3) / 4) * ((w + 3) / 4);
  const int64_t parts = parts_for(tiles * phases * blocks, 36 * tiles * phases * c * d / 8);
  parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
  return out;
}

// (x [N,H,W,C], style [N,C], weight [P,B,36,C,32], scale [N,D], bias [D], noise [pH,pW], slope, gain, clamp)
// -> [N,pH,pW,D]
Tensor winograd_conv(const Tensor& x, const Tensor& style, const Tensor& weight, const Tensor& scale,
                     const Tensor& bias, const Tensor& noise, double slope, double gain, double clamp) {
  const auto call = x.scalar_type() == ScalarType::Double ? run<double> : run<float>;
  return call(make_contiguous(x), make_contiguous(style), make_contiguous(weight), make_contiguous(scale),
              make_contiguous(bias), make_contiguous(noise), slope, gain, clamp);
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("winograd_conv_cpu", TORCH_BOX(&stylefast::winograd_conv)); }
