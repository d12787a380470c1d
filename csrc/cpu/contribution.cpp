// SPDX-License-Identifier: Apache-2.0
// contribution on the CPU, for labels of the layer's own size or of another size.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "contribution.kernel.h"
#include "isa.h"
#include "moments_op.h"

namespace stylefast {
namespace {

// Computes the weights of torch.nn.functional.interpolate(align_corners=False) along one axis.
template <typename T>
void resize_axis(int64_t size, bool bilinear, Axis<T>& axis) {
  const int64_t last = axis.cells - 1;
  const double step = static_cast<double>(axis.cells) / static_cast<double>(size);
  std::fill(axis.area + 0, axis.area + axis.cells, T(0));
  for (int64_t i = 0; i < size; ++i) {
    if (bilinear) {
      const double source = std::max(0.0, (static_cast<double>(i) + 0.5) * step - 0.5);
      axis.low[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(source), last));
      axis.high[i] = static_cast<int32_t>(std::min<int64_t>(axis.low[i] + 1, last));
      axis.weight[i] = static_cast<T>(source - axis.low[i]);
    } else {  // in float, as in torch
      const float source = static_cast<float>(i) * (static_cast<float>(axis.cells) / static_cast<float>(size));
      axis.low[i] = axis.high[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(source), last));
      axis.weight[i] = 0;
    }
    if (axis.low[i] == axis.high[i]) axis.weight[i] = 0;
    axis.area[axis.low[i]] += 1 - axis.weight[i];
    axis.area[axis.high[i]] += axis.weight[i];
  }
}

// (activations [N,C,H,W], labels [N,h,w], K, standardize, resize, per_image) -> M [K,C] or [N,K,C]
Tensor contribution(const Tensor& activations, const Tensor& labels, int64_t clusters, bool standardize,
                    const std::string& resize, bool per_image) {
  STD_TORCH_CHECK(resize == "bilinear" || resize == "nearest", "unknown resize ", resize);
  return dispatch(activations, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = typename Compute<S>::type;
    const auto a = activations_view<S>(activations);
    const Tensor rows = make_contiguous(labels);
    ContributionOutput<T> output(activations, clusters, per_image);
    const bool same_size = labels.size(1) == a.h && labels.size(2) == a.w;
    const int64_t parts = parts_for(a.n * ((a.c + 15) / 16), (same_size ? 8 : 16) * a.n * a.c * a.plane());
    const Contributions<T> sums = output.allocate(parts);
    if (same_size) {
      const LabelledTask<T> task{source(activations), data<int32_t>(rows), clusters, standardize, sums};
      const auto kernel = STYLEFAST_PICK(labelled_kernel<T>);
      parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
    } else {
      Axis<T> y(labels.size(1), a.h), x(labels.size(2), a.w);
      resize_axis(a.h, resize == "bilinear", y);
      resize_axis(a.w, resize == "bilinear", x);
      const PoolTask<S> task{a, data<int32_t>(rows), clusters, standardize, y, x, sums};
      const auto kernel = STYLEFAST_PICK(pool_kernel<S>);
      parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
    }
    output.reduce(parts, a.n * a.plane());
    return output.tensor;
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("contribution_cpu", TORCH_BOX(&stylefast::contribution)); }
