// SPDX-License-Identifier: Apache-2.0
// Prepares the inputs of the kernels that assign labels: the statistics of the planes, and the centroids, which are
// transposed or split into 16-bit pieces.
#include "prepare.cuh"
#include "statistics.cuh"

namespace stylefast {
namespace {

// Writes mean and 1 / sqrt(var + 1e-5) of every plane.
template <typename S>
__global__ void __launch_bounds__(kSlice)
    statistics_kernel(View<S> a, typename Row<S>::T* mean, typename Row<S>::T* rstd) {
  using R = Row<S>;
  using T = typename R::T;
  Carver carver(shared_memory());
  auto* tile = carver.take<typename R::Word>(kSlice * R::kPitch);
  const int64_t slices = (a.c + kSlice - 1) / kSlice, n = blockIdx.x / slices, channel = blockIdx.x % slices * kSlice;
  const int rows = static_cast<int>(min(a.c - channel, static_cast<int64_t>(kSlice)));
  const Statistics<T> statistics = channel_statistics(a, n, channel, rows, tile);
  if (static_cast<int>(threadIdx.x) >= rows) return;
  const int64_t i = n * a.c + channel + threadIdx.x;
  mean[i] = static_cast<T>(static_cast<double>(statistics.shift) + statistics.offset);
  rstd[i] = static_cast<T>(1 / sqrt(statistics.variance + kVarianceEpsilon));
}

// to[c, k] = from[k, c], and zero past the last row k.
template <typename T>
__global__ void transpose_kernel(const T* from, int64_t rows, int64_t channels, int64_t columns, T* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= channels * columns) return;
  to[i] = i % columns < rows ? from[i % columns * channels + i / columns] : T(0);
}

// Biased exponent of the largest finite number of a row. The row is multiplied by the power of two that brings this
// number to [2^14, 2^15), so that its 16-bit pieces are normal numbers. The scores are multiplied by the inverse of the
// power. The exponent is clamped so that both factors are normal numbers.
template <typename S>
__device__ int exponent_of(const float* row, int64_t channels) {
  if (!std::is_same_v<S, half>) return 127 + 14;  // a factor of 1: bfloat16 has the range of float32
  float largest = 0;
  for (int64_t c = 0; row != nullptr && c < channels; ++c) {
    if (fabsf(row[c]) < INFINITY) largest = fmaxf(largest, fabsf(row[c]));
  }
  return min(max(static_cast<int>(__float_as_uint(largest) >> 23), 15), 253);
}

// Multiplies row blockIdx.x of the centroids by a power of two, and splits it into 16-bit pieces whose sum is the row,
// [kPieces, columns, padded]. `scale` receives the inverse of the power of two.
template <typename S>
__global__ void __launch_bounds__(kSlice)
    split_kernel(const float* from, int64_t rows, int64_t channels, int64_t padded, uint16_t* pieces, float* scale) {
  const int64_t k = blockIdx.x, columns = gridDim.x;
  const float* row = k < rows ? from + k * channels : nullptr;
  const int exponent = exponent_of<S>(row, channels);
  const float factor = __uint_as_float(static_cast<uint32_t>(254 + 14 - exponent) << 23);
  if (threadIdx.x == 0) scale[k] = __uint_as_float(static_cast<uint32_t>(exponent - 14) << 23);
  for (int64_t c = threadIdx.x; c < padded; c += kSlice) {
    float rest = row != nullptr && c < channels ? row[c] * factor : 0.0f;
#pragma unroll
    for (int piece = 0; piece < kPieces<S>; ++piece) {
      const S part = narrow<S>(rest);
      pieces[(piece * columns + k) * padded + c] = part.bits;
      rest -= widen(part);
      if (!(fabsf(rest) < INFINITY)) rest = 0;  // the first piece holds infinity or NaN
    }
  }
}

}  // namespace

template <typename S>
Prepared<S>::Prepared(const Device& device, const Tensor& activations, const Tensor& centroids, Features features) {
  using T = typename Row<S>::T;
  points.a = view<S>(activations);
  const int64_t c = points.a.c, images = points.a.n;
  points.squared = features == Features::kSquared;
  points.clusters = centroids.size(-2);
  points.rows = centroids.numel() / c;
  points.columns = round_up(points.rows, kColumns);
  points.channels = round_up(c, 32);
  points.mean = points.rstd = points.scale = points.centroids = nullptr;
  points.pieces = nullptr;
  if (features == Features::kStandardized) {
    buffers_.push_back(empty<T>({2, images, c}, activations));
    T* mean = mutable_data<T>(buffers_.back());
    points.mean = mean, points.rstd = mean + images * c;
    constexpr int64_t kShared = kSlice * Row<S>::kPitch * sizeof(typename Row<S>::Word);
    device.launch(statistics_kernel<S>, {images * ((c + kSlice - 1) / kSlice), kSlice, kShared}, points.a, mean,
                  mean + images * c);
  }
  buffers_.push_back(contiguous(centroids));
  const T* from = data<T>(buffers_.back());
  if constexpr (sizeof(S) == 2) {
    if (features == Features::kRaw) {
      buffers_.push_back(empty<uint16_t>({kPieces<S>, points.columns, points.channels}, activations));
      auto* pieces = mutable_data<uint16_t>(buffers_.back());
      buffers_.push_back(empty<float>({points.columns}, activations));
      float* scale = mutable_data<float>(buffers_.back());
      device.launch(split_kernel<S>, {points.columns, kSlice}, from, points.rows, c, points.channels, pieces, scale);
      points.pieces = pieces, points.scale = scale;
      return;
    }
  }
  buffers_.push_back(empty<T>({c, points.columns}, activations));
  T* to = mutable_data<T>(buffers_.back());
  device.launch(transpose_kernel<T>, {(c * points.columns + kThreads - 1) / kThreads, kThreads}, from, points.rows, c,
                points.columns, to);
  points.centroids = to;
}

template struct Prepared<float>;
template struct Prepared<double>;
template struct Prepared<half>;
template struct Prepared<bfloat16>;

}  // namespace stylefast
