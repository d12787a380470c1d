// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster of an image, and M, which follows from them.
//
// Moments are taken about a shift near the mean of the channel. With d = mean - shift,
//   sum (a - mean)^2 = squares - 2 d sums + d^2 counts.
#pragma once

#include "runs.cuh"
#include "shift.cuh"

namespace stylefast {

// Moments of one image, or of one segment of it, for one slice of channels. U is the weight of a cluster at a position:
// 1 or 0, or a fraction if labels are resized.
template <typename T>
struct Moments {
  __host__ __device__ Moments(Carver carver, int64_t clusters, int width)
      : shift(carver.take<T>(width)),
        counts(carver.take<T>(clusters + 1)),
        sums(carver.take<T>((clusters + 1) * width)),
        squares(carver.take<T>((clusters + 1) * width)),
        bytes(carver.bytes()) {}

  // The last row of counts, sums and squares collects the positions without a cluster.
  T* shift;           // [width]
  T* counts;          // [K + 1]: sum of U
  T *sums, *squares;  // [K + 1, width]: sum of U (a - shift), sum of U (a - shift)^2
  int64_t bytes;      // size of all arrays
};

// Arguments of the kernels that compute M, and the division of their work. A block owns `width` channels (a slice) of
// every `groups`-th image. If images are divided into segments, it owns the tiles of one segment of one image.
template <typename S>
struct MomentsTask {
  using T = typename Row<S>::T;
  View<S> a;
  int64_t clusters;
  bool standardize, per_image;
  int width;                         // channels per block
  int64_t slices, groups, segments;  // slices per C channels, groups of images, segments per image
  bool in_shared;                    // whether moments lie in shared memory while they are summed
  unsigned char* scratch;  // [blocks, bytes]: moments that do not lie in shared memory, and moments of segments
  int64_t bytes;           // size of the moments of one block
  T* contributions;        // M: [groups, K, C], or [N, K, C] if per_image

  __host__ __device__ Moments<T> moments(void* begin) const { return {Carver(begin), clusters, width}; }
};

// Sums both moments of one channel over a run, then adds them to the moments of its label.
template <typename T>
struct RunMoments {
  T shift;
  T *sums, *squares;
  int64_t stride;
  T sum = 0, square = 0;

  __device__ void add(T x, T weight) {
    const T d = x - shift, weighted = weight * d;
    sum += weighted;
    square = fma(weighted, d, square);
  }
  __device__ void end(int32_t label) {
    sums[label * stride] += sum, squares[label * stride] += square;
    sum = square = 0;
  }
};

// Clears the moments of the previous image and samples the shift of image n.
template <typename S>
__device__ void start_image(const MomentsTask<S>& task, int64_t n, int64_t channel, int rows,
                            typename Row<S>::Word* tile, const Moments<typename Row<S>::T>& moments) {
  __syncthreads();  // the previous image is finished
  const int threads = static_cast<int>(blockDim.x);
  auto* words = reinterpret_cast<uint4*>(moments.shift);
  for (int64_t i = threadIdx.x; i < moments.bytes / 16; i += threads) words[i] = {};
  if (!task.standardize) return;
  sample_tile(task.a, n, channel, rows, tile);
  for (int c = static_cast<int>(threadIdx.x); c < rows; c += threads) {
    moments.shift[c] = sampled_mean<S>(tile + c * Row<S>::kPitch, task.a.plane());
  }
}

// Adds a tile whose positions are sorted by label. Each thread owns one channel at a time.
template <typename S>
__device__ void add_moments(const Runs<typename Row<S>::T>& runs, int width, int rows,
                            const typename Row<S>::Word* tile, const Moments<typename Row<S>::T>& moments) {
  using T = typename Row<S>::T;
  runs.for_each([&](int32_t label, int begin, int end) {
    T weight = 0;
    for (int i = begin; i < end; ++i) weight += runs.entry[i].weight;
    moments.counts[label] += weight;
  });
  for (int c = static_cast<int>(threadIdx.x); c < rows; c += static_cast<int>(blockDim.x)) {
    RunMoments<T> run{moments.shift[c], moments.sums + c, moments.squares + c, width};
    add_runs<S>(runs, tile + c * Row<S>::kPitch, run);
  }
}

// Computes M of channels [channel, channel + rows) of image n from its moments. Writes it if per_image, otherwise adds
// it to the sum of the group. The moments of consecutive segments of the image lie `segment_stride` bytes apart.
template <typename S>
__device__ void finish_image(const MomentsTask<S>& task, int64_t n, int64_t group, int64_t channel, int rows,
                             const Moments<typename Row<S>::T>& moments, int64_t segment_stride) {
  using T = typename Row<S>::T;
  __syncthreads();  // all tiles have been added
  const auto total = [&](const T* moment) {
    const auto* begin = reinterpret_cast<const unsigned char*>(moment);
    T sum = 0;
    for (int64_t segment = 0; segment < task.segments; ++segment) {
      sum += *reinterpret_cast<const T*>(begin + segment * segment_stride);
    }
    return sum;
  };
  const T positions = static_cast<T>(task.a.plane());
  T* to = task.contributions + (task.per_image ? n : group) * task.clusters * task.a.c + channel;
  const bool adds = !task.per_image && n != group;  // the first image of a group initialises the sum
  for (int c = static_cast<int>(threadIdx.x); c < rows; c += static_cast<int>(blockDim.x)) {
    T d = 0, scale = 1;
    if (task.standardize) {
      T sum = 0, square = 0;
      for (int64_t k = 0; k <= task.clusters; ++k) {
        sum += total(moments.sums + k * task.width + c);
        square += total(moments.squares + k * task.width + c);
      }
      d = sum / positions;
      const T variance = square / positions - d * d;
      scale = 1 / ((variance < 0 ? T(0) : variance) + static_cast<T>(kVarianceEpsilon));  // NaN stays NaN
    }
    for (int64_t k = 0; k < task.clusters; ++k) {
      const T sum = total(moments.sums + k * task.width + c), square = total(moments.squares + k * task.width + c);
      const T energy = task.standardize ? square - 2 * d * sum + d * d * total(moments.counts + k) : square;
      const T contribution = (energy < 0 ? T(0) : energy) * scale / positions;
      T& result = to[k * task.a.c + c];
      result = adds ? result + contribution : contribution;
    }
  }
}

// Labels on a grid of any size, and the distance on this grid between neighbouring positions of the layer.
struct LabelGrid {
  LabelGrid(const int32_t* labels, int64_t h, int64_t w, const Tensor& activations, bool bilinear)
      : labels(labels), h(h), w(w), bilinear(bilinear) {
    step_h = step(h, activations.size(2)), step_w = step(w, activations.size(3));
  }

  const int32_t* labels;  // [N, h, w]
  int64_t h, w;
  double step_h, step_w;  // in cells
  bool bilinear;

 private:
  double step(int64_t cells, int64_t size) const {
    if (bilinear) return static_cast<double>(cells) / static_cast<double>(size);
    return static_cast<float>(cells) / static_cast<float>(size);  // in float, as in torch
  }
};

// Computes M from labels: [K, C], or [N, K, C] if per_image. Defined in contribution.cu.
template <typename S>
Tensor contribute(const Device& device, const Tensor& activations, const LabelGrid& grid, int64_t clusters,
                  bool standardize, bool per_image);

// Computes the mean over all images from the sums of the groups: [groups, K, C] -> [K, C]. Defined in contribution.cu.
template <typename T>
Tensor mean_of_groups(const Device& device, const Tensor& contributions, int64_t images);

}  // namespace stylefast
