// SPDX-License-Identifier: Apache-2.0
// assign_contribution on CUDA. The activations are read once if the moments fit into shared memory and there are enough
// images.
#include "moments.cuh"
#include "prepare.cuh"

namespace stylefast {
namespace {

// A block owns every `groups`-th image and keeps the moments of one image in shared memory.
//
// Per tile, the block assigns the labels and sorts the positions by label; then every thread adds the runs of its
// channels to the moments. At the end of an image, its M is written, or added to the sum of the block.
template <typename S, bool kRaw>
__global__ void __launch_bounds__(kThreads, 1)
    assign_moments_kernel(Points<S> points, MomentsTask<S> task, int channels, int32_t* labels) {
  using T = typename Row<S>::T;
  constexpr int kPixels = Row<S>::kPixels;
  Carver carver(shared_memory());
  const LabelMemory<S> memory(carver, channels);
  const Runs<T> runs(carver, kPixels);
  const Moments<T> moments = task.moments(carver.take<unsigned char>(task.bytes));
  const int64_t plane = points.a.plane();
  const int p = static_cast<int>(threadIdx.x), rows = task.width;
  for (int64_t n = blockIdx.x; n < points.a.n; n += task.groups) {
    start_image(task, n, 0, rows, memory.tile, moments);
    for (int64_t first = 0; first < plane; first += kPixels) {
      label_tile<S, kRaw>(points, n, first, memory, {labels, nullptr, nullptr, n * plane + first, 0});
      if (p < kPixels) {
        const bool counts = first + p < plane;
        runs.label[p] = counts ? labels[n * plane + first + p] : kNone;
        runs.weight[p] = counts ? 1 : 0;
      }
      runs.sort(1);
      add_moments<S>(runs, task.width, rows, memory.tile, moments);
    }
    finish_image(task, n, static_cast<int64_t>(blockIdx.x), 0, rows, moments, 0);
  }
}

// (activations [N,C,H,W], centroids [K,C], features, standardize, per_image) -> labels [N,H,W], M [K,C] or [N,K,C]
template <typename S>
std::tuple<Tensor, Tensor> assign_contribution_of(const Tensor& activations, const Tensor& centroids,
                                                  const std::string& features, bool standardize, bool per_image) {
  using T = typename Row<S>::T;
  const Device device(activations);
  const Prepared<S> prepared(device, activations, centroids, parse_features(features));
  const Points<S>& points = prepared.points;
  const View<S>& a = points.a;
  const Tensor labels = empty<int32_t>({a.n, a.h, a.w}, activations);

  MomentsTask<S> task{};
  task.a = a, task.clusters = points.clusters, task.standardize = standardize, task.per_image = per_image;
  task.width = static_cast<int>(a.c), task.slices = task.segments = 1, task.in_shared = true;
  task.bytes = task.moments(nullptr).bytes;
  const Plan plan = stylefast::plan(device, points, [&](Carver& carver, bool sums_in_shared) {
    Runs<T>(carver, Row<S>::kPixels);
    if (sums_in_shared) carver.take<unsigned char>(task.bytes);
  });
  if (!plan.sums_in_shared || a.n < device.processors()) {
    // The moments do not fit into shared memory, or there are fewer images than processors: label first, then read the
    // activations again with more blocks.
    label_all<S>(device, points, mutable_data<int32_t>(labels), nullptr);
    const LabelGrid grid(data<int32_t>(labels), a.h, a.w, activations, false);
    return {labels, contribute<S>(device, activations, grid, points.clusters, standardize, per_image)};
  }
  const auto kernel = points.raw() ? assign_moments_kernel<S, true> : assign_moments_kernel<S, false>;
  task.groups = std::min(a.n, device.resident_blocks(kernel, kThreads, plan.shared));
  const Tensor contributions = empty<T>({per_image ? a.n : task.groups, task.clusters, a.c}, activations);
  task.contributions = mutable_data<T>(contributions);
  device.launch(kernel, {task.groups, kThreads, plan.shared}, points, task, plan.channels,
                mutable_data<int32_t>(labels));
  return {labels, per_image ? contributions : mean_of_groups<T>(device, contributions, a.n)};
}

std::tuple<Tensor, Tensor> assign_contribution(const Tensor& activations, const Tensor& centroids,
                                               const std::string& features, bool standardize, bool per_image) {
  return dispatch(activations, [&](auto type) {
    return assign_contribution_of<typename decltype(type)::type>(activations, centroids, features, standardize,
                                                                 per_image);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) {
  m.impl("assign_contribution_cuda", TORCH_BOX(&stylefast::assign_contribution));
}
