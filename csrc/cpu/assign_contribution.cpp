// SPDX-License-Identifier: Apache-2.0
// assign_contribution on the CPU.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "assign_contribution.kernel.h"
#include "isa.h"
#include "moments_op.h"
#include "prepare.h"

namespace stylefast {
namespace {

// Threads get whole images. If there are fewer images than threads, images are divided into segments, whose moments are
// merged in order.
template <typename T>
void run_moments(MomentsTask<T> task, ContributionOutput<T>& output) {
  const Source& a = task.points.a;
  const int64_t work = (2 * task.points.clusters + 8) * a.c * a.positions();
  const int64_t threads = parts_for(a.n * ((a.plane() + 31) / 32), work);
  task.segments = a.n == 0 ? 1 : (threads + a.n - 1) / a.n;
  const int64_t parts = std::min(threads, std::max<int64_t>(1, a.n * task.segments));
  task.output = output.allocate(parts);
  std::vector<Moments<T>> segment_moments;  // [N * segments], empty for one segment
  for (int64_t i = 0; task.segments > 1 && i < a.n * task.segments; ++i)
    segment_moments.emplace_back(task.points.clusters, padded<T>(a.c));
  const auto kernel = STYLEFAST_PICK(moments_kernel<T>);
  parallel(parts, [&](int64_t part) { kernel(task, part, parts, segment_moments); });
  if (task.segments > 1) STYLEFAST_PICK(fold_segments<T>)(task, segment_moments);
  output.reduce(task.segments > 1 ? 1 : parts, a.positions());
}

// (activations [N,C,H,W], centroids [K,C], features, standardize, per_image) -> labels [N,H,W], M [K,C] or [N,K,C]
std::tuple<Tensor, Tensor> assign_contribution(const Tensor& activations, const Tensor& centroids,
                                               const std::string& features, bool standardize, bool per_image) {
  return dispatch_computing(activations, [&](auto type) {
    using T = typename decltype(type)::type;
    const Source a = source(activations);
    const Prepared<T> prepared(a, parse_features(features), make_contiguous(centroids));
    const Tensor labels = empty<int32_t>({a.n, a.h, a.w}, activations);
    ContributionOutput<T> output(activations, centroids.size(0), per_image);
    const MomentsTask<T> task{prepared.points(), mutable_data<int32_t>(labels), standardize, 0, {}};
    run_moments(task, output);
    return std::make_tuple(labels, output.tensor);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) {
  m.impl("assign_contribution_cpu", TORCH_BOX(&stylefast::assign_contribution));
}
