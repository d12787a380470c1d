// SPDX-License-Identifier: Apache-2.0
// lloyd_step on CUDA: labels, sums, counts and objective of all restarts. Activations are read once if all channels of
// a tile fit into shared memory.
#include "hopper/lloyd_step.cuh"
#include "prepare.cuh"
#include "runs.cuh"

namespace stylefast {
namespace {

constexpr int64_t kScratch = 128 << 20;  // bytes of global memory for the sums of all blocks together

// Sums of one block.
template <typename T>
struct LloydSums {
  __host__ __device__ LloydSums(Carver carver, int64_t restarts, int64_t rows, int64_t channels, int pixels)
      : objective(carver.take<double>(restarts * pixels)),
        counts(carver.take<int64_t>(rows)),
        sums(carver.take<T>(rows * channels)),
        bytes(carver.bytes()) {}

  double* objective;  // [B, kPixels]; at the end, column 0 is the sum of the row
  int64_t* counts;    // [B, K]
  T* sums;            // [B, K, C]
  int64_t bytes;      // size of all arrays
};

template <typename S>
struct LloydTask {
  using T = typename Row<S>::T;
  Points<S> points;
  Plan plan;
  int32_t* labels;         // [B, N, H, W]
  unsigned char* scratch;  // [blocks, bytes]: the sums of every block
  int64_t blocks, bytes;   // bytes: size of the sums of one block
  T* sums;                 // [B, K, C]
  int64_t* counts;         // [B, K]
  double* objective;       // [B]

  __host__ __device__ int64_t restarts() const { return points.rows / points.clusters; }
  __host__ __device__ LloydSums<T> block_sums(unsigned char* begin) const {
    return {Carver(begin), restarts(), points.rows, points.a.c, Row<S>::kPixels};
  }
};

// Sums the unit vectors of a run in one channel, then adds them to the sum of its label.
template <typename S, bool kRaw>
struct UnitSum {
  using T = typename Row<S>::T;
  Feature<S> feature;
  T* to;
  int64_t stride;
  T sum = 0;

  __device__ void add(T x, T weight) { sum = fma(kRaw ? x : feature(x), weight, sum); }
  __device__ void end(int32_t label) { to[label * stride] += sum, sum = 0; }
};

// Adds the unit vectors of a labelled tile for every restart. Channels are loaded again if not all fit into
// memory.tile.
template <typename S, bool kRaw>
__device__ void add_tile(const LloydTask<S>& task, int64_t n, int64_t first, const LabelMemory<S>& memory,
                         const Runs<typename Row<S>::T>& runs, const LloydSums<typename Row<S>::T>& sums) {
  const View<S>& a = task.points.a;
  const int p = static_cast<int>(threadIdx.x);
  const int64_t clusters = task.points.clusters;
  for (int64_t b = 0; b < task.restarts(); ++b) {
    if (p < Row<S>::kPixels) {
      const bool counts = first + p < a.plane() && memory.weight[p] > 0;
      runs.label[p] = counts ? task.labels[(b * a.n + n) * a.plane() + first + p] : kNone;
      runs.weight[p] = counts ? memory.weight[p] : 0;
    }
    runs.sort();
    runs.for_each([&](int32_t label, int begin, int end) { sums.counts[b * clusters + label] += end - begin; });
    for (int64_t channel = 0; channel < a.c; channel += memory.channels) {
      const int rows = static_cast<int>(min(a.c - channel, static_cast<int64_t>(memory.channels)));
      if (a.c > memory.channels) {
        __syncthreads();  // the previous channels are no longer used
        load_tile(a, n, span_of<S>(first), channel, rows, rows, memory.tile);
        __syncthreads();
      }
      for (int c = static_cast<int>(threadIdx.x); c < rows; c += kThreads) {
        UnitSum<S, kRaw> sum{{task.points, n, channel + c}, sums.sums + b * clusters * a.c + channel + c, a.c};
        add_runs<S>(runs, memory.tile + c * Row<S>::kPitch, sum);
      }
    }
  }
}

// A block owns every gridDim.x-th tile and its own sums, which lie in shared memory if they fit, otherwise in scratch.
//
// Per tile, the block assigns the labels of all restarts. Then, per restart, it sorts the positions by label, and every
// thread adds the runs of its channels to the sums. At the end, the sums go to scratch, and lloyd_finish_kernel adds
// the sums of all blocks in order. There are no atomics, so results are bitwise repeatable.
template <typename S, bool kRaw, bool kSumsInShared>
__global__ void __launch_bounds__(kThreads, 1) lloyd_kernel(LloydTask<S> task) {
  using T = typename Row<S>::T;
  constexpr int kPixels = Row<S>::kPixels;
  Carver carver(shared_memory());
  const LabelMemory<S> memory(carver, task.plan.channels);
  const Runs<T> runs(carver, kPixels);
  unsigned char* scratch = task.scratch + blockIdx.x * task.bytes;
  unsigned char* begin = scratch;
  if constexpr (kSumsInShared) begin = carver.take<unsigned char>(task.bytes);
  const LloydSums<T> sums = task.block_sums(begin);
  const auto words = reinterpret_cast<uint4*>(begin);
  for (int64_t i = threadIdx.x; i < task.bytes / 16; i += kThreads) words[i] = {};
  const int64_t plane = task.points.a.plane(), blocks = (plane + kPixels - 1) / kPixels;
  for (int64_t tile = blockIdx.x; tile < task.points.a.n * blocks; tile += gridDim.x) {
    const int64_t n = tile / blocks, first = tile % blocks * kPixels;
    label_tile<S, kRaw>(task.points, n, first, memory,
                        {task.labels, nullptr, sums.objective, n * plane + first, task.points.a.positions()});
    add_tile<S, kRaw>(task, n, first, memory, runs, sums);
  }
  for (int64_t b = threadIdx.x; b < task.restarts(); b += kThreads) {
    for (int p = 1; p < kPixels; ++p) sums.objective[b * kPixels] += sums.objective[b * kPixels + p];
  }
  if constexpr (!kSumsInShared) return;
  __syncthreads();  // all tiles have been added
  for (int64_t i = threadIdx.x; i < task.bytes / 16; i += kThreads) reinterpret_cast<uint4*>(scratch)[i] = words[i];
}

// Adds the sums of all blocks, in order.
template <typename S>
__global__ void lloyd_finish_kernel(LloydTask<S> task) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t rows = task.points.rows, size = rows * task.points.a.c;
  double sum = 0, objective = 0;
  int64_t count = 0;
#pragma unroll 4
  for (int64_t block = 0; block < task.blocks; ++block) {
    const auto sums = task.block_sums(task.scratch + block * task.bytes);
    if (i < size) sum += static_cast<double>(sums.sums[i]);
    if (i < rows) count += sums.counts[i];
    if (i < task.restarts()) objective += sums.objective[i * Row<S>::kPixels];
  }
  const int64_t positions = task.points.a.positions();
  if (i < size) task.sums[i] = static_cast<typename Row<S>::T>(sum);
  if (i < rows) task.counts[i] = count;
  if (i < task.restarts()) task.objective[i] = objective / static_cast<double>(positions > 0 ? positions : 1);
}

// (activations [N,C,H,W], centroids [B,K,C], features) -> labels [B,N,H,W], sums [B,K,C], counts [B,K], objective [B]
std::tuple<Tensor, Tensor, Tensor, Tensor> lloyd_step(const Tensor& activations, const Tensor& centroids,
                                                      const std::string& features) {
  return dispatch(activations, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = typename Compute<S>::type;
    const Device device(activations);
    const Prepared<S> prepared(device, activations, centroids, parse_features(features));
    const Points<S>& points = prepared.points;
    const View<S>& a = points.a;
    const int64_t restarts = centroids.size(0), clusters = centroids.size(1);
    const Tensor labels = empty<int32_t>({restarts, a.n, a.h, a.w}, activations);
    const Tensor sums = empty<T>({restarts, clusters, a.c}, activations);
    const Tensor counts = empty<int64_t>({restarts, clusters}, activations);
    const Tensor objective = empty<double>({restarts}, activations);
    if constexpr (sizeof(S) == 2) {
      if (hopper::wanted(points)) {
        hopper::lloyd_step(device, activations, points,
                           {mutable_data<int32_t>(labels), mutable_data<T>(sums), mutable_data<int64_t>(counts),
                            mutable_data<double>(objective)});
        return std::make_tuple(labels, sums, counts, objective);
      }
    }

    LloydTask<S> task{points,
                      {},
                      mutable_data<int32_t>(labels),
                      nullptr,
                      0,
                      0,
                      mutable_data<T>(sums),
                      mutable_data<int64_t>(counts),
                      mutable_data<double>(objective)};
    task.bytes = task.block_sums(nullptr).bytes;
    task.plan = plan(device, points, [&](Carver& carver, bool sums_in_shared) {
      Runs<T>(carver, Row<S>::kPixels);
      if (sums_in_shared) carver.take<unsigned char>(task.bytes);
    });
    const auto kernel = task.plan.sums_in_shared
                            ? points.raw() ? lloyd_kernel<S, true, true> : lloyd_kernel<S, false, true>
                        : points.raw() ? lloyd_kernel<S, true, false>
                                       : lloyd_kernel<S, false, false>;
    const int64_t tiles = a.n * ((a.plane() + Row<S>::kPixels - 1) / Row<S>::kPixels);
    const int64_t max_blocks = std::max<int64_t>(1, kScratch / task.bytes);
    task.blocks = std::min({tiles, device.resident_blocks(kernel, kThreads, task.plan.shared), max_blocks});
    const Tensor scratch = empty<double>({task.blocks * task.bytes / 8}, activations);
    task.scratch = static_cast<unsigned char*>(scratch.mutable_data_ptr());
    device.launch(kernel, {task.blocks, kThreads, task.plan.shared}, task);
    device.launch(lloyd_finish_kernel<S>, {(points.rows * a.c + kThreads - 1) / kThreads, kThreads}, task);
    return std::make_tuple(labels, sums, counts, objective);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) { m.impl("lloyd_step_cuda", TORCH_BOX(&stylefast::lloyd_step)); }
