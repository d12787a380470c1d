// SPDX-License-Identifier: Apache-2.0
// Scores of a tile, [positions, centroids], and their argmax.
//
// score_block() accumulates kRows positions x one or two vectors of centroids in registers, over a stretch of 128
// channels: lanes hold centroids, and the activations are broadcast. score_tile() runs it for every stretch, block of
// centroids and block of positions, and adds the stretches in memory.
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// kRows x kColumns sums, kColumns vectors of centroids and one activation fill the registers.
inline constexpr int kRows = STYLEFAST_BYTES == 64 ? 12 : 6;
inline constexpr int kColumns = 2;

// Channels per stretch. Rounding errors grow with the length of a stretch, not with the number of channels, and the
// centroids of a stretch stay in the first-level cache.
inline constexpr int64_t kStretch = 128;

// Dimensions of the packed order, outermost first: stretches of channels, blocks of kColumns vectors of centroids,
// channels, centroids.
template <typename T>
void pack_centroids(const T* from, int64_t clusters, int64_t channels, T* to) {
  constexpr int L = kLanes<T>;
  const int64_t columns = score_columns<T>(clusters), padded_channels = round_up(channels, L);
  for (int64_t first = 0; first < padded_channels; first += kStretch) {
    for (int64_t begin = 0; begin < columns; begin += kColumns * L) {
      const int64_t width = std::min<int64_t>(kColumns * L, columns - begin);
      for (int64_t c = first; c < std::min(first + kStretch, padded_channels); c += L, to += L * width) {
        for (int64_t k = begin; k < begin + width; k += L) {
          Vec<T> block[L] = {};
          for (int64_t i = 0; i < std::min<int64_t>(L, clusters - k); ++i) {
            block[i] = gather(from + (k + i) * channels + c, 1, std::min<int64_t>(L, channels - c));
          }
          transpose<T>(block);
          for (int i = 0; i < L; ++i) store(to + i * width + k - begin, block[i]);
        }
      }
    }
  }
}

// Scores kRows positions against kWidth vectors of centroids over `slabs` slabs. Every sum runs over the channels in
// order, so equal centroids get equal scores.
template <typename T, int kWidth>
void score_block(const T* x, int64_t slab, int64_t slabs, const T* centroids, T* scores, int64_t columns, bool first) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[kRows][kWidth] = {};
  for (int64_t s = 0; s < slabs; ++s, x += slab) {
    for (int i = 0; i < L; ++i, centroids += kWidth * L) {
      Vec<T> y[kWidth];
      for (int j = 0; j < kWidth; ++j) y[j] = load(centroids + j * L);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        for (int j = 0; j < kWidth; ++j) sum[r][j] += x[r * L + i] * y[j];
      }
      __builtin_prefetch(x + slab + i * L);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kWidth; ++j) {
      T* to = scores + r * columns + j * L;
      store(to, first ? sum[r][j] : load(to) + sum[r][j]);
    }
  }
}

// Adds the scores of slabs [begin, end), a stretch. Returns the centroids of the next stretch.
template <typename T>
const T* score_stretch(const Tile<T>& tile, int64_t begin, int64_t end, int64_t count, const T* centroids,
                       int64_t columns, T* scores) {
  constexpr int L = kLanes<T>;
  const int64_t slabs = end - begin;
  for (int64_t column = 0; column < columns; column += kColumns * L) {
    const int64_t width = std::min<int64_t>(kColumns, (columns - column) / L);
    const auto block = width == kColumns ? score_block<T, kColumns> : score_block<T, 1>;
    for (int64_t p = 0; p < count; p += kRows) {
      block(tile.slab(begin) + p * L, tile.stride * L, slabs, centroids, scores + p * columns + column, columns,
            begin == 0);
    }
    centroids += slabs * L * width * L;
  }
  return centroids;
}

template <typename T>
void score_packed(const Tile<T>& tile, int64_t count, const T* centroids, int64_t clusters, T* scores) {
  const int64_t columns = score_columns<T>(clusters), stretch = kStretch / kLanes<T>;
  for (int64_t s = 0; s < tile.slabs; s += stretch) {
    centroids = score_stretch<T>(tile, s, std::min(s + stretch, tile.slabs), count, centroids, columns, scores);
  }
}

template <typename T>
void score_tile(const Points<T>& points, int64_t first, int64_t count, const Tile<T>& tile, const Tile<T>& features,
                T* norm, T* scores) {
  constexpr int L = kLanes<T>;
  const int64_t columns = score_columns<T>(points.clusters), stretch = kStretch / L;
  const bool rectify = points.features == Features::kRectified, packed = rectify || points.features == Features::kRaw;
  const T* centroids = points.centroids;
  std::fill(norm, norm + tile.pixels, T(0));
  for (int64_t s = 0; s < tile.slabs; s += stretch) {
    const int64_t end = std::min(s + stretch, tile.slabs);
    if (!points.a.channels_last() || s == 0) {  // channels_last: all channels are packed at once
      pack<T>(points.a, first, count, s, points.a.channels_last() ? tile.slabs : end, tile.slab(s), tile.stride,
              packed ? norm : nullptr, L, rectify);
    }
    if (!packed) make_features<T>(points, first, count, s, end, tile, features, norm);
    if (scores != nullptr) centroids = score_stretch<T>(features, s, end, count, centroids, columns, scores);
  }
}

// Blocks of scores are transposed, so that lanes hold positions.
template <typename T, bool kSecond>
void choose(const T* scores, int64_t columns, int64_t first, int64_t clusters, int64_t count, const Best<T>& best,
            T* second) {
  constexpr int L = kLanes<T>;
  for (int64_t p = 0; p < count; p += L) {
    Vec<T> best_score = splat(-std::numeric_limits<T>::infinity()), second_score = best_score;
    Vec<IndexOf<T>> best_label{};
    for (int64_t k = 0; k < clusters; k += L) {
      Vec<T> block[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) block[i] = load(scores + (p + i) * columns + first + k);
      transpose<T>(block);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        if (k + i < clusters) {
          const auto better = block[i] > best_score;
          if constexpr (kSecond) {
            const Vec<T> lower = better ? best_score : block[i];
            second_score = lower > second_score ? lower : second_score;
          }
          best_score = better ? block[i] : best_score;
          best_label = better ? splat(static_cast<IndexOf<T>>(k + i)) : best_label;
        }
      }
    }
    store(best.score + p, best_score);
    store(best.label + p, best_label);
    if constexpr (kSecond) store(second + p, second_score);
  }
}

#define STYLEFAST_INSTANTIATE(T)                                                                        \
  template void pack_centroids(const T*, int64_t, int64_t, T*);                                         \
  template void score_tile(const Points<T>&, int64_t, int64_t, const Tile<T>&, const Tile<T>&, T*, T*); \
  template void score_packed(const Tile<T>&, int64_t, const T*, int64_t, T*);                           \
  template void choose<T, false>(const T*, int64_t, int64_t, int64_t, int64_t, const Best<T>&, T*);     \
  template void choose<T, true>(const T*, int64_t, int64_t, int64_t, int64_t, const Best<T>&, T*);
STYLEFAST_INSTANTIATE(double)
STYLEFAST_INSTANTIATE(float)
#undef STYLEFAST_INSTANTIATE

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
