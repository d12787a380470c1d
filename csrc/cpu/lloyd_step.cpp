// SPDX-License-Identifier: Apache-2.0
// lloyd_step on the CPU: the positions are divided into parts with separate sums, which are then added in order.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "lloyd_step.kernel.h"
#include "isa.h"
#include "prepare.h"

namespace stylefast {
namespace {

// (activations [N,C,H,W], centroids [B,K,C], features) -> labels [B,N,H,W], sums [B,K,C], counts [B,K], objective [B]
std::tuple<Tensor, Tensor, Tensor, Tensor> lloyd_step(const Tensor& activations, const Tensor& centroids,
                                                      const std::string& features) {
  return dispatch_computing(activations, [&](auto type) {
    using T = typename decltype(type)::type;
    const Source a = source(activations);
    const int64_t restarts = centroids.size(0), clusters = centroids.size(1), width = padded<T>(a.c);
    const int64_t parts =
        parts_for((a.positions() + 31) / 32, 2 * (restarts * (clusters + 1) + 1) * a.c * a.positions());
    const Prepared<T> prepared(a, parse_features(features), make_contiguous(centroids));
    const Tensor labels = empty<int32_t>({restarts, a.n, a.h, a.w}, activations);
    const Tensor sums = empty<T>({restarts, clusters, a.c}, activations);
    const Tensor counts = empty<int64_t>({restarts, clusters}, activations);
    const Tensor objective = empty<double>({restarts}, activations);

    const Buffer<double> part_sums(parts * restarts * clusters * width), part_objective(parts * restarts);
    const Buffer<int64_t> part_counts(parts * restarts * clusters);
    const LloydTask<T> task{prepared.points(), restarts,    clusters,      mutable_data<int32_t>(labels),
                            part_sums,         part_counts, part_objective};
    const auto kernel = STYLEFAST_PICK(lloyd_kernel<T>);
    parallel(parts, [&](int64_t part) { kernel(task, part, parts); });

    reduce_parts<T>(part_sums, parts, restarts * clusters, a.c, width, 1, mutable_data<T>(sums));
    for (int64_t i = 0; i < restarts * clusters; ++i) {
      int64_t count = 0;
      for (int64_t p = 0; p < parts; ++p) count += part_counts[p * restarts * clusters + i];
      mutable_data<int64_t>(counts)[i] = count;
    }
    for (int64_t b = 0; b < restarts; ++b) {
      double sum = 0;
      for (int64_t p = 0; p < parts; ++p) sum += part_objective[p * restarts + b];
      mutable_data<double>(objective)[b] = sum / static_cast<double>(std::max<int64_t>(1, a.positions()));
    }
    return std::make_tuple(labels, sums, counts, objective);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("lloyd_step_cpu", TORCH_BOX(&stylefast::lloyd_step)); }
