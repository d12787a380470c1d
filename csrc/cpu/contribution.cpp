// SPDX-License-Identifier: Apache-2.0
// contribution on the CPU, for labels of the layer's own size or of another size.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "contribution.kernel.h"
#include "isa.h"
#include "moments_op.h"
#include "resize.h"

namespace stylefast {
namespace {

// (activations [N,C,H,W], labels [N,h,w], K, standardize, resize, per_image) -> M [K,C] or [N,K,C]
Tensor contribution(const Tensor& activations, const Tensor& labels, int64_t clusters, bool standardize,
                    const std::string& resize, bool per_image) {
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
      const Axis<T> y = resize_axis<T>(labels.size(1), a.h, resize), x = resize_axis<T>(labels.size(2), a.w, resize);
      const PoolTask<S> task{{a, standardize, y, x}, data<int32_t>(rows), clusters, sums};
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
