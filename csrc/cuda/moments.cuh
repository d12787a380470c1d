// SPDX-License-Identifier: Apache-2.0
// First and second moments of every channel over every cluster of an image, about a shift near the channel's mean, and
// M from them: with d = mean - shift, sum (a - mean)^2 = Q - 2 d L + d^2 n.
#pragma once

#include "runs.cuh"
#include "shift.cuh"

namespace stylefast {

template <typename T>
struct MomentSums {
  __host__ __device__ MomentSums(Carver carver, int64_t clusters, int width)
      : shift(carver.take<T>(width)),
        n(carver.take<T>(clusters + 1)),
        l(carver.take<T>((clusters + 1) * width)),
        q(carver.take<T>((clusters + 1) * width)),
        bytes(carver.bytes()) {}

  T* shift;       // [width]
  T *n, *l, *q;   // [K + 1], [K + 1, width] twice: positions of no cluster are in the last row
  int64_t bytes;  // of the carver
};

// M of a layer, and how blocks share it: a block has `width` channels of every groups-th image, or of some of its
// tiles.
template <typename S>
struct MomentTask {
  using T = typename Row<S>::T;
  View<S> a;
  int64_t clusters;
  bool standardize, per_image;
  int width;
  int64_t slices, groups, pieces;
  bool inside;             // whether moments lie in shared memory while they are added up
  unsigned char* scratch;  // [blocks, bytes]: else they lie here; and here where an image is in pieces
  int64_t bytes;
  T* m;  // [groups, K, C], or [N, K, C] if per_image

  __host__ __device__ MomentSums<T> sums(void* at) const { return {Carver(at), clusters, width}; }
};

// Both moments of a run in one channel.
template <typename T>
struct MomentSum {
  T shift;
  T *l, *q;
  int64_t stride;
  T first = 0, second = 0;

  __device__ void add(T x, T weight) {
    const T d = x - shift, weighted = weight * d;
    first += weighted;
    second = fma(weighted, d, second);
  }
  __device__ void end(int32_t label) {
    l[label * stride] += first, q[label * stride] += second;
    first = second = 0;
  }
};

// Clears the moments of the last image and samples the shift of the next.
template <typename S>
__device__ void start_image(const MomentTask<S>& task, int64_t n, int64_t channel, int rows,
                            typename Row<S>::Word* tile, const MomentSums<typename Row<S>::T>& sums) {
  __syncthreads();  // the last image is finished
  const int threads = static_cast<int>(blockDim.x);
  auto* words = reinterpret_cast<uint4*>(sums.shift);
  for (int64_t i = threadIdx.x; i < sums.bytes / 16; i += threads) words[i] = {};
  if (!task.standardize) return;
  sample_tile(task.a, n, channel, rows, tile);
  for (int c = static_cast<int>(threadIdx.x); c < rows; c += threads) {
    sums.shift[c] = sampled_mean<S>(tile + c * Row<S>::kPitch, task.a.plane());
  }
}

// Adds a tile whose positions are sorted by label.
template <typename S>
__device__ void add_moments(const Runs<typename Row<S>::T>& runs, int width, int rows,
                            const typename Row<S>::Word* tile, const MomentSums<typename Row<S>::T>& sums) {
  using T = typename Row<S>::T;
  runs.each([&](int32_t label, int begin, int end) {
    T weight = 0;
    for (int i = begin; i < end; ++i) weight += runs.entry[i].weight;
    sums.n[label] += weight;
  });
  for (int c = static_cast<int>(threadIdx.x); c < rows; c += static_cast<int>(blockDim.x)) {
    MomentSum<T> sum{sums.shift[c], sums.l + c, sums.q + c, width};
    add_runs<S>(runs, tile + c * Row<S>::kPitch, sum);
  }
}

// M of channels [channel, channel + rows) of image n; the moments of its other pieces follow `apart` bytes after
// another.
template <typename S>
__device__ void finish_image(const MomentTask<S>& task, int64_t n, int64_t group, int64_t channel, int rows,
                             const MomentSums<typename Row<S>::T>& sums, int64_t apart) {
  using T = typename Row<S>::T;
  __syncthreads();  // all has been added
  const auto total = [&](const T* of) {
    T sum = 0;
    for (int64_t piece = 0; piece < task.pieces; ++piece) {
      sum += *reinterpret_cast<const T*>(reinterpret_cast<const unsigned char*>(of) + piece * apart);
    }
    return sum;
  };
  const T positions = static_cast<T>(task.a.plane());
  T* to = task.m + (task.per_image ? n : group) * task.clusters * task.a.c + channel;
  const bool adds = !task.per_image && n != group;  // the first image of a group is written
  for (int c = static_cast<int>(threadIdx.x); c < rows; c += static_cast<int>(blockDim.x)) {
    T d = 0, scale = 1;
    if (task.standardize) {
      T first = 0, second = 0;
      for (int64_t k = 0; k <= task.clusters; ++k) {
        first += total(sums.l + k * task.width + c);
        second += total(sums.q + k * task.width + c);
      }
      d = first / positions;
      const T variance = second / positions - d * d;
      scale = 1 / ((variance < 0 ? T(0) : variance) + static_cast<T>(kVarianceEpsilon));  // NaN stays
    }
    for (int64_t k = 0; k < task.clusters; ++k) {
      const T l = total(sums.l + k * task.width + c), q = total(sums.q + k * task.width + c);
      const T energy = task.standardize ? q - 2 * d * l + d * d * total(sums.n + k) : q;
      const T m = (energy < 0 ? T(0) : energy) * scale / positions;
      T& at = to[k * task.a.c + c];
      at = adds ? at + m : m;
    }
  }
}

// Labels [N, h, w] on a grid of any size, and the cells of a step from one position of the layer to the next.
struct LabelGrid {
  LabelGrid(const int32_t* labels, int64_t h, int64_t w, const Tensor& activations, bool bilinear)
      : labels(labels), h(h), w(w), bilinear(bilinear) {
    step_h = step(h, activations.size(2)), step_w = step(w, activations.size(3));
  }

  const int32_t* labels;
  int64_t h, w;
  double step_h, step_w;
  bool bilinear;

 private:
  double step(int64_t cells, int64_t size) const {
    if (bilinear) return static_cast<double>(cells) / static_cast<double>(size);
    return static_cast<float>(cells) / static_cast<float>(size);  // as torch does
  }
};

// M [K, C] or [N, K, C] of given labels. (contribution.cu)
template <typename S>
Tensor contribute(const Device& device, const Tensor& activations, const LabelGrid& grid, int64_t clusters,
                  bool standardize, bool per_image);

// The mean over all images of what groups have added up: [groups, K, C] -> [K, C]. (contribution.cu)
template <typename T>
Tensor mean_of_groups(const Device& device, const Tensor& m, int64_t images);

}  // namespace stylefast
