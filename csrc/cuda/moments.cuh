// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster of an image, and M, which follows from them.
//
// Moments are taken about a shift near the mean of the channel. With d = mean - shift,
//   sum (a - mean)^2 = squares - 2 d sums + d^2 counts.
#pragma once

#include "runs.cuh"
#include "shift.cuh"

namespace stylefast {

inline constexpr int kSummed = 128;  // rows of moments that are summed on their own first, for precision

// Both moments of one channel over one cluster.
template <typename T>
struct alignas(2 * sizeof(T)) Sums {
  T sum, square;  // sum of U (a - shift), sum of U (a - shift)^2

  __device__ void add(const Sums& other) { sum += other.sum, square += other.square; }
};

// Moments of one image, or of one segment of it, for one slice of channels. U is the weight of a cluster at a position:
// 1 or 0, or a fraction if labels are resized. Rows 0 to K - 1 are the clusters, row K collects the positions without a
// cluster, and rows from K + 1 belong to no position of the image.
template <typename T, typename Count>
struct Moments {
  __host__ __device__ Moments(Carver carver, int64_t rows, int width)
      : shift(carver.take<T>(width)),
        counts(carver.take<Count>(rows)),
        sums(carver.take<Sums<T>>(rows * width)),
        rows(static_cast<int>(rows)),
        width(width),
        bytes(carver.bytes()) {}

  T* shift;       // [width]
  Count* counts;  // [rows]: sum of U
  Sums<T>* sums;  // [rows, width]
  int rows, width;
  int64_t bytes;  // size of all arrays
};

// Arguments of the kernels that compute M, and the division of their work. A block owns `width` channels (a slice) of
// every `groups`-th image. If images are divided into segments, it owns one segment of one image.
template <typename S>
struct MomentsTask {
  using T = typename Row<S>::T;
  View<S> a;
  int64_t clusters;
  bool standardize, per_image;
  int64_t rows;                      // rows of the moments
  int width;                         // channels per block
  int64_t slices, groups, segments;  // slices per C channels, groups of images, segments per image
  unsigned char* scratch;            // [blocks, bytes]: moments of segments, or moments that do not fit elsewhere
  int64_t bytes;                     // size of the moments of one block
  T* contributions;                  // M: [groups, K, C], or [N, K, C] if per_image

  template <typename Count>
  __host__ __device__ Moments<T, Count> moments(unsigned char* begin) const {
    return {Carver(begin), rows, width};
  }

  // Number of channels of the slice that begins with `channel`.
  __device__ int slice_width(int64_t channel) const {
    return static_cast<int>(min(a.c - channel, static_cast<int64_t>(width)));
  }
};

// Computes M of channels [channel, channel + channels) of image n from its moments. Writes it if per_image, otherwise
// adds it to the sum of the group. A thread computes the channels whose moments it has summed.
template <typename S, typename Count>
__device__ void finish_image(const MomentsTask<S>& task, int64_t n, int64_t group, int64_t channel, int channels,
                             const Moments<typename Row<S>::T, Count>& moments) {
  using T = typename Row<S>::T;
  const T share = 1 / static_cast<T>(task.a.plane());  // of one position
  T* to = task.contributions + (task.per_image ? n : group) * task.clusters * task.a.c + channel;
  const bool adds = !task.per_image && n != group;  // the first image of a group initialises the sum
  const int clusters = static_cast<int>(task.clusters), counted = min(clusters + 1, moments.rows);
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
    const Sums<T>* from = moments.sums + c;
    T d = 0, scale = share;
    if (task.standardize) {
      Sums<T> total{};
      for (int first = 0; first < counted; first += kSummed) {
        Sums<T> part{};
        for (int k = first; k < min(first + kSummed, counted); ++k) part.add(from[k * moments.width]);
        total.add(part);
      }
      d = total.sum * share;
      const T variance = total.square * share - d * d;
      scale /= (variance < 0 ? T(0) : variance) + static_cast<T>(kVarianceEpsilon);  // NaN stays NaN
    }
    T* result = to + c;
#pragma unroll 4
    for (int k = 0; k < clusters; ++k) {
      const Sums<T> sums = from[k * moments.width];
      const T count = static_cast<T>(moments.counts[k]);
      const T energy = task.standardize ? sums.square - 2 * d * sums.sum + d * d * count : sums.square;
      const T contribution = (energy < 0 ? T(0) : energy) * scale;
      *result = adds ? *result + contribution : contribution;
      result += task.a.c;
    }
  }
}

// Labels on a grid of any size, and the distance on this grid between neighbouring positions of the layer. If `labels`
// is nullptr, every cell of the grid is a cluster of its own.
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
