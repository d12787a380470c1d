// SPDX-License-Identifier: Apache-2.0
// The Hopper kernel of lloyd_step: one warp loads tiles, two warp groups compute. Also its launch, and the kernels that
// reduce the sums of all blocks.
#include "consume.cuh"
#include "lloyd_step.cuh"

namespace stylefast::hopper {
namespace {

// Writes the pieces of the centroids that the scores need, as operands of matrix products, and starts the barriers.
[[maybe_unused]] __device__ void prepare(const Task& task, Shared& shared) {
  const int vectors = task.boxes * kScorePieces * kMaxRows * 8;  // of 8 channels
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kBlockThreads) {
    const int vector = i % 8, row = i / 8 % (kScorePieces * kMaxRows), box = i / 8 / (kScorePieces * kMaxRows);
    const int64_t from = row / kMaxRows * task.columns + row % kMaxRows;
    *reinterpret_cast<Vector<uint32_t>*>(shared.centroids[box] + swizzled<128>(row, vector)) =
        *reinterpret_cast<const Vector<uint32_t>*>(task.pieces + from * task.channels() + box * kBoxChannels +
                                                   vector * 8);
  }
  if (threadIdx.x < kMaxRows) shared.counts[threadIdx.x] = 0;
  if (threadIdx.x < kSlots) {
    shared.full[threadIdx.x].start(1);
    shared.empty[threadIdx.x].start(kGroupThreads / 32);  // one thread per warp of the group that computes the box
    fence_barriers();
  }
  fence_writes();
}

// Calls f(tiles, n, first) for the tiles of this block, with the number of tiles before, the image and the position.
template <typename F>
__device__ void for_each_tile(const Task& task, F&& f) {
  const int per_plane = task.tiles_per_plane();
  uint32_t tiles = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < task.tiles; tile += static_cast<int>(gridDim.x)) {
    f(tiles++, tile / per_plane, tile % per_plane * kPositions);
  }
}

// A block owns every gridDim.x-th tile. The last warp copies boxes into the ring of shared memory as soon as their
// slots are empty. The other warps compute, see Consumer.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads, 1)
    hopper_lloyd_kernel([[maybe_unused]] const __grid_constant__ CUtensorMap map, [[maybe_unused]] const Task task) {
#ifdef STYLEFAST_HOPPER_UNITS
  Shared& shared = *reinterpret_cast<Shared*>(aligned_shared_memory());
  prepare(task, shared);
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    if (threadIdx.x > kConsumers) return;
    for_each_tile(task, [&](uint32_t tiles, int n, int first) {
      for (int box = 0; box < task.boxes; ++box) {
        const Slot slot(tiles, task.boxes, box);
        shared.empty[slot.index].wait(slot.parity ^ 1);
        shared.full[slot.index].arrive_and_expect(kBoxBytes);
        load_box(shared.boxes[slot.index], map, shared.full[slot.index], first, box * kBoxChannels, n);
      }
    });
  } else {
    Consumer<S> consumer(task, shared);
    for_each_tile(task, [&](uint32_t tiles, int n, int first) { consumer.add(tiles, n, first); });
    consumer.finish();
  }
#endif
}

constexpr int kSlices = kThreads / kBoxChannels;  // of the blocks whose sums are added

// Adds the sums and counts of all blocks, in a fixed order, for one row and the 64 channels of a box. The cosines of
// the positions in a cluster add up to the product of their sum and the centroid. cosines[blockIdx.x] receives the part
// of these channels.
template <typename S>
__global__ void __launch_bounds__(kThreads)
    hopper_sums_kernel(Task task, int64_t blocks, float* sums, int64_t* counts, double* cosines) {
  Carver carver(shared_memory());
  double* partial = carver.take<double>(kThreads);
  int64_t* partial_count = carver.take<int64_t>(kSlices);
  const int thread = static_cast<int>(threadIdx.x), slice = thread / kBoxChannels;
  const int box = static_cast<int>(blockIdx.x) % task.boxes, channel = box * kBoxChannels + thread % kBoxChannels;
  const int64_t rows = task.rows(), row = static_cast<int>(blockIdx.x) / task.boxes;
  const int64_t element = row * task.channels() + channel;
  double sum = 0;
  int64_t count = 0;
#pragma unroll 8
  for (int64_t block = slice; block < blocks; block += kSlices) {
    sum += static_cast<double>(task.sums[block * rows * task.channels() + element]);
    if (channel == 0) count += task.counts[block * (rows + 1) + row];
  }
  partial[thread] = sum;
  if (channel == 0) partial_count[slice] = count;
  __syncthreads();
  if (slice == 0) {
    for (int i = 1; i < kSlices; ++i) {
      sum += partial[i * kBoxChannels + thread];
      if (channel == 0) count += partial_count[i];
    }
    sums[element] = static_cast<float>(sum);
    if (channel == 0) counts[row] = count;
    float centroid = 0;
    for (int piece = kPieces<S> - 1; piece >= 0; --piece) {
      centroid += widen(S{task.pieces[(piece * task.columns + row) * task.channels() + channel]});
    }
    partial[thread] = sum * static_cast<double>(centroid * task.scale[row]);
  }
  __syncthreads();
  if (thread > 0) return;
  double total = 0;
  for (int i = 0; i < kBoxChannels; ++i) total += partial[i];
  cosines[blockIdx.x] = total;
}

// Writes the mean cosine of restart blockIdx.x: NaN if the norm of any position is not finite.
__global__ void __launch_bounds__(kThreads) hopper_objective_kernel(Task task, int64_t blocks, const int64_t* counts,
                                                                    const double* cosines, double* objective) {
  Carver carver(shared_memory());
  double* partial = carver.take<double>(kThreads);
  const int64_t rows = task.rows(), first = blockIdx.x * static_cast<int64_t>(task.clusters);
  double total = 0;
  for (int64_t i = threadIdx.x; i < task.clusters * task.boxes; i += kThreads) {
    // The product of an empty sum and a centroid with NaN is NaN.
    if (counts[first + i / task.boxes] > 0) total += cosines[first * task.boxes + i];
  }
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) {
    if (task.counts[block * (rows + 1) + rows] > 0) total = NAN;
  }
  partial[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int i = 1; i < kThreads; ++i) total += partial[i];
  objective[blockIdx.x] = total / (static_cast<double>(task.images) * static_cast<double>(task.plane));
}

// Describes the planes of activations as a tensor (position, channel, image).
template <typename S>
CUtensorMap tensor_map(const View<S>& a) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  STD_TORCH_CHECK(found == cudaDriverEntryPointSuccess, "CUDA: the driver has no cuTensorMapEncodeTiled");
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  constexpr bool kHalf = std::is_same_v<S, half>;
  const auto unsigned_size = [](int64_t size) { return static_cast<cuuint64_t>(size); };
  const int64_t stride_n = a.n > 1 ? a.stride_n : a.c * a.stride_c;
  const cuuint64_t sizes[3] = {unsigned_size(a.plane()), unsigned_size(a.c), unsigned_size(a.n)};
  const cuuint64_t strides[2] = {unsigned_size(2 * a.stride_c), unsigned_size(2 * stride_n)};  // in bytes
  const cuuint32_t box[3] = {kPositions, kBoxChannels, 1}, steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult error =
      encode(&map, kHalf ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
             const_cast<S*>(a.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  STD_TORCH_CHECK(error == CUDA_SUCCESS, "CUDA: no tensor map for these activations, error ", static_cast<int>(error));
  return map;
}

// Whether the current device runs the kernel. Code for other architectures has an empty body, which needs few
// registers.
template <typename S>
bool device_runs_kernel() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (major != 9 || minor != 0) return false;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, hopper_lloyd_kernel<S>));
  return attributes.numRegs > 32;
}

}  // namespace

template <typename S>
bool wanted(const Points<S>& points) {
  const char* variable = std::getenv("STYLEFAST_HOPPER");
  if (variable == nullptr || std::string(variable) != "1") return false;
  const View<S>& a = points.a;
  const bool loads = a.load == Load::kPlanes && a.stride_w == 1 && a.stride_c > 0 && (a.n == 1 || a.stride_n > 0);
  const bool fits = a.c % kBoxChannels == 0 && a.c <= kMaxBoxes * kBoxChannels && points.rows <= kMaxRows &&
                    a.plane() <= INT32_MAX - kPositions && a.positions() / kPositions + a.n <= INT32_MAX / 2;
  return points.raw() && a.n > 0 && loads && fits && device_runs_kernel<S>();
}

template <typename S>
void lloyd_step(const Device& device, const Tensor& activations, const Points<S>& points, const Outputs& outputs) {
  const View<S>& a = points.a;
  Task task{};
  task.restarts = static_cast<int>(points.rows / points.clusters), task.clusters = static_cast<int>(points.clusters);
  task.boxes = static_cast<int>(a.c / kBoxChannels);
  task.images = static_cast<int>(a.n), task.plane = static_cast<int>(a.plane());
  task.tiles = task.images * task.tiles_per_plane();
  task.pieces = points.pieces, task.scale = points.scale, task.columns = points.columns;
  task.labels = outputs.labels;
  const int64_t blocks = std::min<int64_t>(task.tiles, device.processors());
  const Tensor sums = empty<float>({blocks, points.rows, a.c}, activations);
  const Tensor counts = empty<int32_t>({blocks, points.rows + 1}, activations);
  task.sums = mutable_data<float>(sums);
  task.counts = reinterpret_cast<uint32_t*>(mutable_data<int32_t>(counts));
  device.launch(hopper_lloyd_kernel<S>, {blocks, kBlockThreads, sizeof(Shared)}, tensor_map(a), task);
  const Tensor cosines = empty<double>({points.rows * task.boxes}, activations);
  constexpr int64_t kShared = kThreads * sizeof(double) + kSlices * sizeof(int64_t);
  device.launch(hopper_sums_kernel<S>, {points.rows * task.boxes, kThreads, kShared}, task, blocks, outputs.sums,
                outputs.counts, mutable_data<double>(cosines));
  device.launch(hopper_objective_kernel, {task.restarts, kThreads, kShared}, task, blocks, outputs.counts,
                mutable_data<double>(cosines), outputs.objective);
}

template bool wanted(const Points<half>&);
template bool wanted(const Points<bfloat16>&);
template void lloyd_step(const Device&, const Tensor&, const Points<half>&, const Outputs&);
template void lloyd_step(const Device&, const Tensor&, const Points<bfloat16>&, const Outputs&);

}  // namespace stylefast::hopper
