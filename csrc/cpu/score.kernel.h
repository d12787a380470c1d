// SPDX-License-Identifier: Apache-2.0
// Scores in registers: a group of positions against a block of centroids.
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Centroids a block: kGroup x kBlock sums, kGroup norms, kGroup positions and one centroid stay within the registers
// (32 of them in AVX-512, else 16).
inline constexpr int kBlock = STYLEFAST_BYTES == 64 ? 12 : 5;

// Channels summed at a stretch: rounding grows with them, not with all channels.
inline constexpr int64_t kStretch = 128;

inline int64_t blocks_of(int64_t clusters) { return (clusters + kBlock - 1) / kBlock; }

template <typename T>
void pack_centroids(const T* from, int64_t restarts, int64_t clusters, int64_t channels, T* to) {
  const int64_t blocks = blocks_of(clusters);
  for (int64_t b = 0; b < restarts; ++b) {
    for (int64_t j = 0; j < blocks; ++j) {
      const int64_t begin = share(clusters, j, blocks), width = share(clusters, j + 1, blocks) - begin;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t k = 0; k < width; ++k) *to++ = from[(b * clusters + begin + k) * channels + c];
      }
    }
  }
}

// One group of positions against one block of centroids. The first block starts the argmax and sums |x|^2. Sums run
// over the channels in order, the same for every centroid, so equal centroids score equally and `>` keeps the lowest.
template <typename T, int kClusters, bool kFirst>
void score_block(const T* tile, int64_t pixels, int64_t channels, const T* centroids, int64_t cluster, T* best,
                 IndexOf<T>* label, T* norm) {
  constexpr int L = kLanes<T>;
  Vec<T> total[kClusters][kGroup] = {}, norms[kGroup] = {};
  for (int64_t begin = 0; begin < channels; begin += kStretch) {
    Vec<T> sum[kClusters][kGroup] = {}, square[kGroup] = {};
    const int64_t end = std::min(begin + kStretch, channels);
    for (int64_t c = begin; c < end; ++c, tile += pixels, centroids += kClusters) {
      Vec<T> x[kGroup];
      for (int g = 0; g < kGroup; ++g) x[g] = load(tile + g * L);
      if constexpr (kFirst) {
        for (int g = 0; g < kGroup; ++g) square[g] += x[g] * x[g];
      }
#pragma GCC unroll 16
      for (int k = 0; k < kClusters; ++k) {
        for (int g = 0; g < kGroup; ++g) sum[k][g] += x[g] * centroids[k];
      }
    }
    for (int k = 0; k < kClusters; ++k) {
      for (int g = 0; g < kGroup; ++g) total[k][g] += sum[k][g];
    }
    for (int g = 0; g < kGroup; ++g) norms[g] += square[g];
  }
  for (int g = 0; g < kGroup; ++g) {
    Vec<T> top = kFirst ? splat(-std::numeric_limits<T>::infinity()) : load(best + g * L);
    Vec<IndexOf<T>> arg = kFirst ? Vec<IndexOf<T>>{} : load(label + g * L);
#pragma GCC unroll 16
    for (int k = 0; k < kClusters; ++k) {
      const auto better = total[k][g] > top;
      top = better ? total[k][g] : top;
      arg = better ? splat<IndexOf<T>>(cluster + k) : arg;
    }
    store(best + g * L, top);
    store(label + g * L, arg);
    if constexpr (kFirst) store(norm + g * L, norms[g]);
  }
}

template <typename T, bool kFirst, int... kIndex>
auto score_function(int64_t clusters, std::integer_sequence<int, kIndex...>) {
  using Function = void (*)(const T*, int64_t, int64_t, const T*, int64_t, T*, IndexOf<T>*, T*);
  static constexpr Function kTable[] = {&score_block<T, kIndex + 1, kFirst>...};
  return kTable[clusters - 1];
}

template <typename T>
void score_tile(const T* tile, int64_t pixels, int64_t channels, const T* centroids, int64_t clusters,
                const Best<T>& best) {
  constexpr auto kWidths = std::make_integer_sequence<int, kBlock>{};
  const int64_t blocks = blocks_of(clusters);
  for (int64_t j = 0; j < blocks; ++j) {
    const int64_t begin = share(clusters, j, blocks), width = share(clusters, j + 1, blocks) - begin;
    const auto function = j == 0 ? score_function<T, true>(width, kWidths) : score_function<T, false>(width, kWidths);
    for (int64_t p = 0; p < pixels; p += kGroup * kLanes<T>) {
      function(tile + p, pixels, channels, centroids, begin, best.score + p, best.label + p, best.norm + p);
    }
    centroids += width * channels;
  }
}

#define STYLEFAST_INSTANTIATE(T)                                         \
  template void pack_centroids(const T*, int64_t, int64_t, int64_t, T*); \
  template void score_tile(const T*, int64_t, int64_t, const T*, int64_t, const Best<T>&);
STYLEFAST_INSTANTIATE(double)
STYLEFAST_INSTANTIATE(float)
#undef STYLEFAST_INSTANTIATE

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
