// SPDX-License-Identifier: Apache-2.0
// contribution on CUDA, for label grids of any size. assign_contribution uses it if it cannot compute labels and M in
// one read of the activations.
#include "labelled.cuh"
#include "pooled.cuh"

namespace stylefast {
namespace {

constexpr int kJoinThreads = 128;
constexpr int64_t kScratch = 128 << 20;  // bytes of global memory for all blocks together
constexpr int64_t kBlocksPerPlace = 8;   // segments: blocks per block that the device can run at a time

// Adds the moments of the segments of every image, in order, and computes M. All segments of an image have the same
// shift.
template <typename S, typename Count>
__global__ void __launch_bounds__(kJoinThreads) join_kernel(MomentsTask<S> task) {
  using T = typename Row<S>::T;
  const int64_t slice = blockIdx.x % task.slices, n = blockIdx.x / task.slices, channel = slice * task.width;
  const Moments<T, Count> joined = task.template moments<Count>(shared_memory());
  for (int64_t segment = 0; segment < task.segments; ++segment) {
    const int64_t block = (segment * task.groups + n) * task.slices + slice;
    const Moments<T, Count> moments = task.template moments<Count>(task.scratch + block * task.bytes);
    for (int k = threadIdx.x; k < joined.rows; k += kJoinThreads) {
      joined.counts[k] = (segment == 0 ? Count(0) : joined.counts[k]) + moments.counts[k];
    }
    for (int i = threadIdx.x; i < joined.rows * joined.width; i += kJoinThreads) {
      Sums<T> sums = segment == 0 ? Sums<T>{} : joined.sums[i];
      sums.add(moments.sums[i]);
      joined.sums[i] = sums;
    }
  }
  __syncthreads();
  finish_image(task, n, n, channel, task.slice_width(channel), joined);
}

// to[i] = sum of contributions[group, i] over the groups, in order, divided by the number of images.
template <typename T>
__global__ void mean_kernel(const T* contributions, int64_t groups, int64_t size, double images, T* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  double sum = 0;
#pragma unroll 4
  for (int64_t group = 0; group < groups; ++group) sum += static_cast<double>(contributions[group * size + i]);
  to[i] = static_cast<T>(images > 0 ? sum / images : 0);
}

}  // namespace

template <typename T>
Tensor mean_of_groups(const Device& device, const Tensor& contributions, int64_t images) {
  const Tensor mean = empty<T>({contributions.size(1), contributions.size(2)}, contributions);
  const int64_t size = mean.numel();
  device.launch(mean_kernel<T>, {(size + kThreads - 1) / kThreads, kThreads}, data<T>(contributions),
                contributions.size(0), size, static_cast<double>(images), mutable_data<T>(mean));
  return mean;
}

template Tensor mean_of_groups<float>(const Device&, const Tensor&, int64_t);
template Tensor mean_of_groups<double>(const Device&, const Tensor&, int64_t);

namespace {

// Divides every image into at most `max_parts` segments, because many small blocks keep all processors busy until the
// end. This needs moments in shared memory and scratch for all of them. Otherwise a block owns a group of images.
template <typename S>
void divide(MomentsTask<S>& task, int64_t resident_blocks, int64_t max_parts, bool in_shared) {
  const View<S>& a = task.a;
  task.slices = (a.c + task.width - 1) / task.width;
  const int64_t slices = std::max<int64_t>(1, a.n * task.slices), max_segments = kScratch / (slices * task.bytes);
  if (in_shared && max_segments > 1) {
    task.groups = a.n;
    task.segments =
        std::clamp<int64_t>(kBlocksPerPlace * resident_blocks / slices, 1, std::min(max_parts, max_segments));
    return;
  }
  const int64_t output = task.clusters * a.c * static_cast<int64_t>(sizeof(typename Row<S>::T));
  const int64_t max_groups = kScratch / (output + (in_shared ? 0 : task.bytes * task.slices));
  task.groups = std::min({a.n, std::max<int64_t>(1, resident_blocks / task.slices), std::max<int64_t>(1, max_groups)});
  task.segments = 1;
}

// Launches a kernel that sums moments, and computes M from them.
template <typename S, typename Count, typename Task, typename Launch>
Tensor launch_and_join(const Device& device, Task& task, const Tensor& activations, bool in_shared, Launch&& launch) {
  using T = typename Row<S>::T;
  const int64_t blocks = task.slices * task.groups * task.segments;
  const bool needs_scratch = task.segments > 1 || !in_shared;
  const Tensor scratch = empty<double>({needs_scratch ? blocks * task.bytes / 8 : 0}, activations);
  task.scratch = static_cast<unsigned char*>(scratch.mutable_data_ptr());
  const Tensor contributions =
      empty<T>({task.per_image ? task.a.n : task.groups, task.clusters, task.a.c}, activations);
  task.contributions = mutable_data<T>(contributions);
  launch(blocks);
  if (task.segments > 1) {
    const MomentsTask<S>& moments = task;
    device.launch(join_kernel<S, Count>, {task.slices * task.groups, kJoinThreads, task.bytes}, moments);
  }
  return task.per_image ? contributions : mean_of_groups<T>(device, contributions, task.a.n);
}

template <typename S>
auto moments_kernel_for(int width, bool in_shared) {
  if (!in_shared) return moments_kernel<S, false, 1>;
  return width > kLabelledThreads ? moments_kernel<S, true, 2> : moments_kernel<S, true, 1>;
}

// M from labels on the grid of the activations. A block has 128 channels if three such blocks fit on a processor.
template <typename S>
Tensor contribute_labelled(const Device& device, MomentsTask<S> task, const Tensor& activations,
                           const int32_t* labels) {
  task.rows = task.clusters + 2;
  const int64_t limit = device.shared_limit();
  const auto shared_bytes = [&](int width, bool in_shared) {
    Carver carver(nullptr);
    task.width = width;
    task.bytes = task.template moments<int32_t>(nullptr).bytes;
    LabelledMemory<S>(carver, width);
    return carver.bytes() + (in_shared ? task.bytes : 0);
  };
  int width = 2 * kLabelledThreads;
  while (width > 32 && (width / 2 >= task.a.c || shared_bytes(width, true) > limit / 3)) width /= 2;
  const bool in_shared = shared_bytes(width, true) <= limit;
  const int64_t shared = shared_bytes(width, in_shared);
  const auto kernel = moments_kernel_for<S>(width, in_shared);
  const int64_t tiles = (task.a.plane() + Row<S>::kPixels - 1) / Row<S>::kPixels;
  const int64_t resident = device.resident_blocks(kernel, kLabelledThreads, shared);
  divide(task, resident, std::max<int64_t>(1, tiles / 4), in_shared);
  return launch_and_join<S, int32_t>(device, task, activations, in_shared, [&](int64_t blocks) {
    device.launch(kernel, {blocks, kLabelledThreads, shared}, task, labels);
  });
}

// M from labels on another grid.
template <typename S>
Tensor contribute_pooled(const Device& device, const MomentsTask<S>& base, const Tensor& activations,
                         const LabelGrid& grid) {
  constexpr int kVector = Row<S>::kVector;
  PoolTask<S> task{base, grid, base.a.load, 16, 0};
  const View<S>& a = task.a;
  if (a.load == Load::kPlanes && a.w % kVector != 0) task.load = Load::kElements;
  task.rows = task.clusters + 1;
  // A block has width * columns elements of a row: 16 bytes per thread.
  if (task.load == Load::kChannels) {
    task.width = kVector;
    while (task.width < 8 * kVector && task.width < a.c) task.width *= 2;
    task.columns = kPoolThreads * kVector / task.width;
  } else {
    while (task.columns < 64 * kVector && task.columns < a.w) task.columns *= 2;
    task.width = kPoolThreads * kVector / task.columns;
  }
  const auto pool_bytes = [&] {
    const int64_t reached = task.columns * grid.w / std::max<int64_t>(1, a.w) + 3;
    task.max_cells = static_cast<int>(grid.w > a.w ? 2 * task.columns : std::min(grid.w, reached));
    Carver carver(nullptr);
    PoolMemory<S>(carver, task.width, task.columns, task.max_cells);
    return carver.bytes();
  };
  const int64_t limit = device.shared_limit();
  while (pool_bytes() > limit && task.columns > 16) task.columns /= 2, task.width *= 2;
  task.bytes = task.template moments<typename Row<S>::T>(nullptr).bytes;
  const bool in_shared = pool_bytes() + task.bytes <= limit;
  const int64_t shared = pool_bytes() + (in_shared ? task.bytes : 0);
  const auto kernel = in_shared ? pool_kernel<S, true> : pool_kernel<S, false>;
  const int64_t rows = std::max<int64_t>(1, std::min(a.h / 8, grid.h));
  divide(task, device.resident_blocks(kernel, kPoolThreads, shared), rows, in_shared);
  return launch_and_join<S, typename Row<S>::T>(device, task, activations, in_shared, [&](int64_t blocks) {
    device.launch(kernel, {blocks, kPoolThreads, shared}, task);
  });
}

}  // namespace

template <typename S>
Tensor contribute(const Device& device, const Tensor& activations, const LabelGrid& grid, int64_t clusters,
                  bool standardize, bool per_image) {
  STD_TORCH_CHECK(clusters < 1 << 24, "n_clusters must be less than 2^24, got ", clusters);
  MomentsTask<S> task{};
  task.a = view<S>(activations);
  task.clusters = clusters, task.standardize = standardize, task.per_image = per_image;
  if (grid.h == task.a.h && grid.w == task.a.w) return contribute_labelled(device, task, activations, grid.labels);
  return contribute_pooled(device, task, activations, grid);
}

template Tensor contribute<float>(const Device&, const Tensor&, const LabelGrid&, int64_t, bool, bool);
template Tensor contribute<double>(const Device&, const Tensor&, const LabelGrid&, int64_t, bool, bool);
template Tensor contribute<half>(const Device&, const Tensor&, const LabelGrid&, int64_t, bool, bool);
template Tensor contribute<bfloat16>(const Device&, const Tensor&, const LabelGrid&, int64_t, bool, bool);

namespace {

// (activations [N,C,H,W], labels [N,h,w], K, standardize, resize, per_image) -> M [K,C] or [N,K,C]
Tensor contribution(const Tensor& activations, const Tensor& labels, int64_t clusters, bool standardize,
                    const std::string& resize, bool per_image) {
  STD_TORCH_CHECK(resize == "bilinear" || resize == "nearest", "unknown resize ", resize);
  return dispatch(activations, [&](auto type) {
    const Device device(activations);
    const Tensor rows = contiguous(labels);
    const LabelGrid grid(data<int32_t>(rows), rows.size(1), rows.size(2), activations, resize == "bilinear");
    return contribute<typename decltype(type)::type>(device, activations, grid, clusters, standardize, per_image);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) { m.impl("contribution_cuda", TORCH_BOX(&stylefast::contribution)); }
