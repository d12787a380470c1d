// SPDX-License-Identifier: Apache-2.0
// assign on the CPU: the tiles of all images are divided among threads.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "assign.kernel.h"
#include "isa.h"
#include "prepare.h"

namespace stylefast {
namespace {

// (activations [N,C,H,W], centroids [K,C], features) -> labels [N,H,W], similarity [N,H,W]
std::tuple<Tensor, Tensor> assign(const Tensor& activations, const Tensor& centroids, const std::string& features) {
  return dispatch_computing(activations, [&](auto type) {
    using T = typename decltype(type)::type;
    const Source a = source(activations);
    const Prepared<T> prepared(a, parse_features(features), make_contiguous(centroids));
    const Tensor labels = empty<int32_t>({a.n, a.h, a.w}, activations);
    const Tensor similarity = empty<T>({a.n, a.h, a.w}, activations);
    const AssignTask<T> task{prepared.points(), mutable_data<int32_t>(labels), mutable_data<T>(similarity)};
    const int64_t parts = parts_for((a.positions() + 31) / 32, 2 * (prepared.clusters + 1) * a.c * a.positions());
    const auto kernel = STYLEFAST_PICK(assign_kernel<T>);
    parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
    return std::make_tuple(labels, similarity);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("assign_cpu", TORCH_BOX(&stylefast::assign)); }
