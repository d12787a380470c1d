// SPDX-License-Identifier: Apache-2.0
// assign_contribution on CUDA. The activations are read once if the moments fit into shared memory and there are enough
// images.
#include "moments.cuh"
#include "prepare.cuh"

namespace stylefast {
namespace {

// Sums both moments of one channel over a run, then adds them to the moments of its label.
template <typename T>
struct RunMoments {
  T shift;
  Sums<T>* to;
  int stride;
  Sums<T> total{};

  __device__ void add(T x, T) {
    const T d = x - shift;
    total.sum += d;
    total.square = fma(d, d, total.square);
  }
  __device__ void end(int32_t label) {
    Sums<T> sums = to[label * stride];
    sums.add(total);
    to[label * stride] = sums;
    total = {};
  }
};

// Clears the moments of the previous image and samples the shift of image n.
template <typename S>
__device__ void start_image(const MomentsTask<S>& task, int64_t n, typename Row<S>::Word* tile,
                            const Moments<typename Row<S>::T, int32_t>& moments) {
  __syncthreads();  // the previous image is finished
  auto* words = reinterpret_cast<uint4*>(moments.shift);
  for (int64_t i = threadIdx.x; i < moments.bytes / 16; i += kThreads) words[i] = {};
  if (!task.standardize) return;
  sample_tile(task.a, n, 0, task.width, tile);
  for (int c = static_cast<int>(threadIdx.x); c < task.width; c += kThreads) {
    moments.shift[c] = sampled_mean<S>(tile + c * Row<S>::kPitch, task.a.plane());
  }
}

// Adds a tile whose positions are sorted by label. Each thread owns one channel at a time.
template <typename S>
__device__ void add_moments(const Runs<typename Row<S>::T>& runs, const typename Row<S>::Word* tile,
                            const Moments<typename Row<S>::T, int32_t>& moments) {
  runs.for_each([&](int32_t label, int begin, int end) { moments.counts[label] += end - begin; });
  for (int c = static_cast<int>(threadIdx.x); c < moments.width; c += kThreads) {
    RunMoments<typename Row<S>::T> run{moments.shift[c], moments.sums + c, moments.width};
    add_runs<S>(runs, tile + c * Row<S>::kPitch, run);
  }
}

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
  const Moments<T, int32_t> moments = task.template moments<int32_t>(carver.take<unsigned char>(task.bytes));
  const int64_t plane = points.a.plane();
  const int p = static_cast<int>(threadIdx.x);
  for (int64_t n = blockIdx.x; n < points.a.n; n += task.groups) {
    start_image(task, n, memory.tile, moments);
    for (int64_t first = 0; first < plane; first += kPixels) {
      label_tile<S, kRaw>(points, n, first, memory, {labels, nullptr, nullptr, n * plane + first, 0});
      if (p < kPixels) {
        const bool counts = first + p < plane;
        runs.label[p] = counts ? labels[n * plane + first + p] : kNone;
        runs.weight[p] = counts ? 1 : 0;
      }
      runs.sort();
      add_moments<S>(runs, memory.tile, moments);
    }
    __syncthreads();  // all tiles have been counted
    finish_image(task, n, static_cast<int64_t>(blockIdx.x), 0, task.width, moments);
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
  task.width = static_cast<int>(a.c), task.slices = task.segments = 1;
  task.rows = task.clusters;  // every position has a cluster
  task.bytes = task.template moments<int32_t>(nullptr).bytes;
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
