// SPDX-License-Identifier: Apache-2.0
// contribution on CUDA, for label grids of any size. assign_contribution uses it if it cannot compute labels and M in
// one read of the activations.
#include "moments.cuh"

namespace stylefast {
namespace {

constexpr int64_t kScratch = 128 << 20;  // bytes of global memory for all blocks together

// The two cells of an axis between which position i lies, as in torch.nn.functional.interpolate(align_corners=False).
struct Neighbours {
  int64_t low, high;
  double weight;  // of cell high; cell low has 1 - weight

  __device__ Neighbours(int64_t i, int64_t cells, double step, bool bilinear) {
    if (bilinear) {
      const double source = max(0.0, (static_cast<double>(i) + 0.5) * step - 0.5);
      low = min(static_cast<int64_t>(source), cells - 1);
      high = min(low + 1, cells - 1);
      weight = low == high ? 0 : source - static_cast<double>(low);
    } else {  // in float, as in torch
      low = high = min(static_cast<int64_t>(static_cast<float>(i) * static_cast<float>(step)), cells - 1);
      weight = 0;
    }
  }
};

// Number of cells between which a position lies.
template <typename S>
__host__ __device__ int labels_per_position(const View<S>& a, const LabelGrid& grid) {
  return grid.bilinear && (grid.h != a.h || grid.w != a.w) ? 4 : 1;
}

// Writes the labels of the cells between which position p of the plane lies, and their weights. If several cells have
// the same label, the first one gets the sum of their weights. Unused entries become kNone.
template <typename S>
__device__ void find_labels(const MomentsTask<S>& task, const LabelGrid& grid, int64_t n, int64_t p, int32_t* label,
                            typename Row<S>::T* weight) {
  using T = typename Row<S>::T;
  const Neighbours y(p / task.a.w, grid.h, grid.step_h, grid.bilinear),
      x(p % task.a.w, grid.w, grid.step_w, grid.bilinear);
  const int count = labels_per_position(task.a, grid);
  for (int i = 0; i < count; ++i) {
    const bool below = i / 2 != 0, right = i % 2 != 0;
    const T weight_y = static_cast<T>(below ? y.weight : 1 - y.weight);
    const T weight_x = static_cast<T>(right ? x.weight : 1 - x.weight);
    const int64_t cell = (n * grid.h + (below ? y.high : y.low)) * grid.w + (right ? x.high : x.low);
    const int32_t cell_label = grid.labels[cell];
    label[i] = cell_label >= 0 && cell_label < task.clusters ? cell_label : static_cast<int32_t>(task.clusters);
    weight[i] = weight_y * weight_x;
    for (int j = 0; j < i; ++j) {
      if (label[j] != label[i]) continue;
      weight[j] += weight[i];
      label[i] = kNone;
    }
    if (weight[i] == 0) label[i] = kNone;
  }
}

// Writes the entries of all positions of a tile.
template <typename S>
__device__ void label_positions(const MomentsTask<S>& task, const LabelGrid& grid, int64_t n, int64_t first,
                                const Runs<typename Row<S>::T>& runs) {
  const int count = labels_per_position(task.a, grid), i = static_cast<int>(threadIdx.x);
  if (i >= Row<S>::kPixels) return;
  for (int j = 0; j < count; ++j) runs.label[i * count + j] = kNone, runs.weight[i * count + j] = 0;
  if (first + i >= task.a.plane()) return;
  find_labels(task, grid, n, first + i, runs.label + i * count, runs.weight + i * count);
}

// A block owns `width` channels of every `groups`-th image, or of one segment of one image.
//
// Per tile, the block loads the activations, finds the labels and weights of the positions, and sorts them by label;
// then every thread adds the runs of its channel to the moments. At the end of an image, its M is written, or added to
// the sum of the group. Moments of segments go to scratch, from which join_kernel reads them.
template <typename S>
__global__ void __launch_bounds__(128, 4) moments_kernel(MomentsTask<S> task, LabelGrid grid) {
  using R = Row<S>;
  using T = typename R::T;
  Carver carver(shared_memory());
  auto* tile = carver.take<typename R::Word>(task.width * R::kPitch);
  const int entries = labels_per_position(task.a, grid);  // per position
  const Runs<T> runs(carver, R::kPixels * entries);
  unsigned char* scratch = task.scratch + blockIdx.x * task.bytes;
  void* begin = task.in_shared ? carver.take<unsigned char>(task.bytes) : scratch;
  const Moments<T> moments = task.moments(begin);

  const int64_t channel = blockIdx.x % task.slices * task.width, group = blockIdx.x / task.slices % task.groups;
  const int64_t segment = blockIdx.x / task.slices / task.groups;
  const int64_t tiles = (task.a.plane() + R::kPixels - 1) / R::kPixels;
  const int64_t first = part_begin(tiles, segment, task.segments), last = part_begin(tiles, segment + 1, task.segments);
  const int rows = static_cast<int>(min(task.a.c - channel, static_cast<int64_t>(task.width)));
  for (int64_t n = group; n < task.a.n; n += task.groups) {
    start_image(task, n, channel, rows, tile, moments);
    for (int64_t t = first; t < last; ++t) {
      __syncthreads();  // the previous tile is no longer used
      load_tile(task.a, n, span_of<S>(t * R::kPixels), channel, rows, static_cast<int>(round_up(rows, 32)), tile);
      label_positions(task, grid, n, t * R::kPixels, runs);
      runs.sort(entries);
      add_moments<S>(runs, task.width, rows, tile, moments);
    }
    if (task.segments == 1) finish_image(task, n, group, channel, rows, moments, 0);
  }
  if (task.segments == 1 || !task.in_shared) return;
  __syncthreads();  // all tiles have been added
  for (int64_t i = threadIdx.x; i < task.bytes / 16; i += blockDim.x) {
    reinterpret_cast<uint4*>(scratch)[i] = static_cast<const uint4*>(begin)[i];
  }
}

// Adds the moments of the segments of every image, in order, and computes M. All segments of an image have the same
// shift.
template <typename S>
__global__ void __launch_bounds__(128) join_kernel(MomentsTask<S> task) {
  const int64_t channel = blockIdx.x % task.slices * task.width, n = blockIdx.x / task.slices;
  const int rows = static_cast<int>(min(task.a.c - channel, static_cast<int64_t>(task.width)));
  const auto moments = task.moments(task.scratch + blockIdx.x * task.bytes);
  finish_image(task, n, n, channel, rows, moments, task.slices * task.groups * task.bytes);
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

// Writes the sizes to task and returns the bytes of shared memory that a block with these sizes needs.
template <typename S>
int64_t shared_bytes(MomentsTask<S>& task, int pixels, int width, bool in_shared) {
  using R = Row<S>;
  Carver carver(nullptr);
  task.width = width;
  task.in_shared = in_shared;
  task.bytes = task.moments(nullptr).bytes;
  carver.take<typename R::Word>(width * R::kPitch);
  Runs<typename R::T>(carver, pixels);
  if (in_shared) carver.take<unsigned char>(task.bytes);
  return carver.bytes();
}

// Chooses the number of channels per block and returns the bytes of shared memory per block. The first choice is the
// largest number (at most 128) with which four blocks fit on a processor. The second choice is 32 channels, if one
// block fits. Otherwise the moments lie in global memory.
template <typename S>
int64_t choose_width(const Device& device, MomentsTask<S>& task, int pixels) {
  const int64_t limit = device.shared_limit();
  int max_width = 128;
  while (max_width > 32 && max_width / 2 >= task.a.c) max_width /= 2;
  for (int width = max_width; width >= 32; width /= 2) {
    const int64_t bytes = shared_bytes(task, pixels, width, true);
    if (bytes <= limit / 4) return bytes;
  }
  const int64_t bytes = shared_bytes(task, pixels, 32, true);
  return bytes <= limit ? bytes : shared_bytes(task, pixels, max_width, false);
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

template <typename S>
Tensor contribute(const Device& device, const Tensor& activations, const LabelGrid& grid, int64_t clusters,
                  bool standardize, bool per_image) {
  using T = typename Row<S>::T;
  MomentsTask<S> task{};
  task.a = view<S>(activations);
  task.clusters = clusters, task.standardize = standardize, task.per_image = per_image;
  const View<S>& a = task.a;
  const int64_t shared = choose_width(device, task, Row<S>::kPixels * labels_per_position(a, grid));
  const int threads = static_cast<int>(round_up(task.width, 64));
  task.slices = (a.c + task.width - 1) / task.width;

  const int64_t resident_blocks = device.resident_blocks(moments_kernel<S>, threads, shared);
  const int64_t tiles = (a.plane() + Row<S>::kPixels - 1) / Row<S>::kPixels;
  const int64_t output = clusters * a.c * static_cast<int64_t>(sizeof(T));
  const int64_t max_groups =
      std::max<int64_t>(1, kScratch / (output + (task.in_shared ? 0 : task.bytes * task.slices)));
  task.groups = std::min({a.n, std::max<int64_t>(1, resident_blocks / task.slices), max_groups});
  task.segments = 1;
  if (task.groups == a.n && a.n > 0 && task.in_shared) {  // one image per block: segments use the idle processors
    task.segments = std::clamp<int64_t>(resident_blocks / (a.n * task.slices), 1, tiles);
  }
  const int64_t blocks = task.slices * task.groups * task.segments;
  const bool needs_scratch = task.segments > 1 || !task.in_shared;
  const Tensor scratch = empty<double>({needs_scratch ? blocks * task.bytes / 8 : 0}, activations);
  task.scratch = static_cast<unsigned char*>(scratch.mutable_data_ptr());
  const Tensor contributions = empty<T>({per_image ? a.n : task.groups, clusters, a.c}, activations);
  task.contributions = mutable_data<T>(contributions);
  device.launch(moments_kernel<S>, {blocks, threads, shared}, task, grid);
  if (task.segments > 1) device.launch(join_kernel<S>, {task.slices * task.groups, threads}, task);
  return per_image ? contributions : mean_of_groups<T>(device, contributions, a.n);
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
