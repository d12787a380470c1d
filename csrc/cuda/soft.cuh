// SPDX-License-Identifier: Apache-2.0
// M of memberships on the grid of the activations: products of energies and memberships.
//
// A block owns kSlice channels and kPart clusters of every `groups`-th image. It reads an image twice: first for the
// statistics of its channels, then, tile by tile, for the energies (a - mean)^2 / (var + 1e-5). With moments about
// another shift, one read would be enough, but the number of products would double. In the second read, a thread owns a
// channel when it computes energies, and then 8 channels times 4 clusters of the products. The order of additions is
// fixed, so results are bitwise repeatable.
#pragma once

#include "moments.cuh"
#include "statistics.cuh"

namespace stylefast {

inline constexpr int kPart = 32;  // clusters per block

// Arguments of the kernel.
template <typename S>
struct SoftTask {
  using T = typename Row<S>::T;
  View<S> a;
  const T* memberships;  // [N, K, H W]
  int64_t clusters;
  bool standardize, per_image;
  int64_t slices, parts, groups;  // slices per C channels, parts per K clusters, groups of images
  T* contributions;               // M: [groups, K, C], or [N, K, C] if per_image
};

// Shared memory of a block. Products read four neighbouring channels or clusters at once.
template <typename S>
struct SoftMemory {
  using R = Row<S>;
  using T = typename R::T;
  static constexpr int kChunk = Row<T>::kPixels;                          // positions that are multiplied at a time
  static constexpr int kEnergies = kSlice + 4, kMemberships = kPart + 4;  // elements from one position to the next

  __device__ __host__ explicit SoftMemory(Carver& carver)
      : tile(carver.take<typename R::Word>(kSlice * R::kPitch)),
        energies(carver.take<T>(kChunk * kEnergies)),
        memberships(carver.take<T>(kChunk * kMemberships)) {}

  typename R::Word* tile;  // [kSlice, kPitch]
  T* energies;             // [kChunk, kEnergies]
  T* memberships;          // [kChunk, kMemberships]
};

// How a thread computes the energies of its channel: scale (a - shift - offset)^2.
template <typename T>
struct Energy {
  T shift = 0, offset = 0, scale = 1;

  __device__ T of(T x) const {
    const T d = x - shift - offset;
    return d * d * scale;
  }
};

// The products of a thread, [2, 4] channels times 4 clusters.
template <typename T>
struct SoftSums {
  static constexpr int kWide = kSlice / 8;  // threads that own the same clusters

  __device__ static int cluster() { return static_cast<int>(threadIdx.x) / kWide * 4; }
  __device__ static int channel(int i) {
    return i / 4 * (kSlice / 2) + static_cast<int>(threadIdx.x) % kWide * 4 + i % 4;
  }

  // Adds the products of the positions in memory. They are summed on their own first, for precision.
  template <typename S>
  __device__ void add(const SoftMemory<S>& memory) {
    using Four = Vector<T, 4>;
    T part[8][4]{};
    constexpr int kStep = 4;
    static_assert(SoftMemory<S>::kChunk % kStep == 0);
#pragma unroll 1
    for (int first = 0; first < SoftMemory<S>::kChunk; first += kStep) {
#pragma unroll
      for (int p = first; p < first + kStep; ++p) {
        const T* from = memory.energies + p * SoftMemory<S>::kEnergies;
        const Four low = *reinterpret_cast<const Four*>(from + channel(0));
        const Four high = *reinterpret_cast<const Four*>(from + channel(4));
        const Four u = *reinterpret_cast<const Four*>(memory.memberships + p * SoftMemory<S>::kMemberships + cluster());
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const T energy = i < 4 ? low.values[i] : high.values[i - 4];
#pragma unroll
          for (int k = 0; k < 4; ++k) part[i][k] = fma(energy, u.values[k], part[i][k]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) values[i][k] += part[i][k];
    }
  }

  T values[8][4]{};
};

// Writes the energies of the positions of a tile from `first`, of which `count` exist.
template <typename S, bool kPooled>
__device__ void set_energies(const SoftMemory<S>& memory, int first, int64_t count,
                             const Energy<typename Row<S>::T>& energy) {
  using T = typename Row<S>::T;
  const typename Row<S>::Word* row = memory.tile + static_cast<int>(threadIdx.x) * Row<S>::kPitch;
#pragma unroll 8
  for (int i = 0; i < SoftMemory<S>::kChunk; ++i) {
    const T x = Row<S>::pixel(row, first + i);
    const T value = kPooled ? x : energy.of(x);
    memory.energies[i * SoftMemory<S>::kEnergies + threadIdx.x] = i < count ? value : T(0);
  }
}

// Writes the memberships of the `count` first positions, and zeros for those that do not exist. `from` is the
// position's membership of the first of `clusters` clusters.
template <typename S>
__device__ void set_memberships(const SoftMemory<S>& memory, const typename Row<S>::T* from, int64_t clusters,
                                int64_t plane, int64_t count) {
  using T = typename Row<S>::T;
  constexpr int kChunk = SoftMemory<S>::kChunk;
  const int p = static_cast<int>(threadIdx.x) % kChunk;
#pragma unroll 8
  for (int k = static_cast<int>(threadIdx.x) / kChunk; k < kPart; k += kSlice / kChunk) {
    const bool exists = p < count && k < clusters;
    memory.memberships[p * SoftMemory<S>::kMemberships + k] = exists ? from[k * plane + p] : T(0);
  }
}

// If kPooled, the activations are energies, in units of 1 / (H W), that have been pooled onto the memberships' grid.
template <typename S, bool kPooled>
__global__ void __launch_bounds__(kSlice) soft_kernel(SoftTask<S> task) {
  using R = Row<S>;
  using T = typename R::T;
  Carver carver(shared_memory());
  const SoftMemory<S> memory(carver);
  const int64_t channel = blockIdx.x % task.slices * kSlice, cluster = blockIdx.x / task.slices % task.parts * kPart;
  const int64_t group = blockIdx.x / task.slices / task.parts, plane = task.a.plane();
  const int rows = static_cast<int>(min(task.a.c - channel, static_cast<int64_t>(kSlice)));
  for (int64_t n = group; n < task.a.n; n += task.groups) {
    Energy<T> energy;
    if constexpr (!kPooled) {
      energy.scale = 1 / static_cast<T>(plane);
      if (task.standardize) {
        const Statistics<T> statistics = channel_statistics(task.a, n, channel, rows, memory.tile);
        energy.shift = statistics.shift, energy.offset = static_cast<T>(statistics.offset);
        energy.scale /= static_cast<T>(statistics.variance + kVarianceEpsilon);
      }
    }
    const T* memberships = task.memberships + (n * task.clusters + cluster) * plane;
    SoftSums<T> sums;
    for (int64_t p = 0; p < plane; p += SoftMemory<S>::kChunk) {
      const int first = static_cast<int>(p % R::kPixels);
      __syncthreads();  // the tile and the energies are no longer used
      if (first == 0) {
        load_tile(task.a, n, span_of<S>(p), channel, rows, kSlice, memory.tile);
        __syncthreads();
      }
      set_energies<S, kPooled>(memory, first, plane - p, energy);
      set_memberships<S>(memory, memberships + p, task.clusters - cluster, plane, plane - p);
      __syncthreads();
      sums.add(memory);
    }
    const bool adds = !task.per_image && n != group;  // the first image of a group initialises the sum
    T* to = task.contributions + ((task.per_image ? n : group) * task.clusters + cluster) * task.a.c + channel;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int c = sums.channel(i);
        if (c >= rows || cluster + sums.cluster() + k >= task.clusters) continue;
        T* result = to + (sums.cluster() + k) * task.a.c + c;
        *result = adds ? *result + sums.values[i][k] : sums.values[i][k];
      }
    }
  }
}

// Computes M from memberships: [K, C], or [N, K, C] if per_image. Defined in soft_contribution.cu.
template <typename S>
Tensor soft_contribute(const Device& device, const Tensor& activations, const Tensor& memberships, bool standardize,
                       bool bilinear, bool per_image);

}  // namespace stylefast
