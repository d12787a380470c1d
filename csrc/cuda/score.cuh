// SPDX-License-Identifier: Apache-2.0
// Scores of a tile against 32 centroids. Each of the eight warps sums over an eighth of the channels, for all positions
// of the tile and all 32 centroids, so that a centroid is read once per tile. The eight partial sums are then added in
// shared memory (label.cuh).
#pragma once

#include "mma.cuh"

namespace stylefast {

inline constexpr int kColumns = 32;  // centroids scored at a time
inline constexpr int kSlots = 2;     // partial sums that shared memory holds at a time

// Number of 16-bit pieces whose sum is a float32 centroid. Two float16 pieces hold 22 of its 24 bits; three bfloat16
// pieces hold all 24.
template <typename S>
inline constexpr int kPieces = std::is_same_v<S, half> ? 2 : 3;

// The points to label (features of the activations), and the centroids to choose from.
template <typename S>
struct Points {
  using T = typename Compute<S>::type;
  View<S> a;
  const T *mean, *rstd;  // [N, C] for standardised features, else null
  bool squared;
  const T* centroids;         // [C, columns], or null if there are pieces
  const uint16_t* pieces;     // [kPieces, columns, channels]; their sum is centroid / scale
  const T* scale;             // [columns]
  int64_t clusters;           // K, clusters per restart
  int64_t rows;               // B K, the centroids of all restarts
  int64_t columns, channels;  // rows and C, rounded up to 32; the padding is zero

  __host__ __device__ bool raw() const { return mean == nullptr && !squared; }
};

// Computes the feature of channel c of image n from its activation.
template <typename S>
struct Feature {
  using T = typename Compute<S>::type;
  T mean = 0, rstd = 0;
  bool squared;

  __device__ Feature(const Points<S>& points, int64_t n, int64_t c) : squared(points.squared) {
    if (points.mean == nullptr) return;
    mean = points.mean[n * points.a.c + c];
    rstd = points.rstd[n * points.a.c + c];
  }

  __device__ T operator()(T x) const { return squared ? x * x : (x - mean) * rstd; }
};

// Partial scores of one warp, computed by scalar multiply-adds. A lane owns the positions of every eighth word of a
// row, and 8 centroids.
template <typename S, bool kMatrix>
class Scores {
  using R = Row<S>;
  using T = typename R::T;

 public:
  // Adds channels [begin, end) of a tile, whose first channel is `channel`, for centroids [column, column + kColumns).
  template <bool kRaw>
  __device__ void add(const Points<S>& points, int64_t n, const typename R::Word* tile, int64_t channel, int begin,
                      int end, int64_t column) {
    const T* from = points.centroids + (channel + begin) * points.columns + column + kLaneCentroids * group();
#pragma unroll 2
    for (int c = begin; c < end; ++c, from += points.columns) {
      alignas(16) T y[kLaneCentroids];
#pragma unroll
      for (int k = 0; k < kLaneCentroids; k += 16 / static_cast<int>(sizeof(T))) {
        *reinterpret_cast<Vector<T>*>(y + k) = *reinterpret_cast<const Vector<T>*>(from + k);
      }
      const Feature<S> feature(points, n, channel + c);
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        const typename R::Word word = tile[c * R::kPitch + lane_word() + 8 * j];
#pragma unroll
        for (int i = 0; i < R::kPack; ++i) {
          const T x = kRaw ? R::value(word, i) : feature(R::value(word, i));
#pragma unroll
          for (int k = 0; k < kLaneCentroids; ++k) sum_[j][i][k] = fma(x, y[k], sum_[j][i][k]);
        }
      }
    }
  }

  // Calls f(position, centroid, score) for every score that this lane holds.
  template <typename F>
  __device__ void for_each(F&& f) const {
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
#pragma unroll
      for (int i = 0; i < R::kPack; ++i) {
#pragma unroll
        for (int k = 0; k < kLaneCentroids; ++k)
          f((lane_word() + 8 * j) * R::kPack + i, kLaneCentroids * group() + k, sum_[j][i][k]);
      }
    }
  }

 private:
  static constexpr int kWords = R::kWords / 8, kLaneCentroids = kColumns / 4;
  __device__ static int lane_word() { return static_cast<int>(threadIdx.x) % 8; }
  __device__ static int group() { return static_cast<int>(threadIdx.x) % 32 / 8; }

  T sum_[kWords][R::kPack][kLaneCentroids]{};
};

// Partial scores of one warp, computed by matrix instructions for 16 positions x 8 centroids x 16 channels.
//
// A word holds two positions of a channel. The positions in word 8 i + g are rows g and g + 8 of the i-th matrix `a`.
// The columns of `a` are 32 channels, 16 per instruction: lane 4 g + t holds channels 8 t to 8 t + 3 for the first
// instruction, and channels 8 t + 4 to 8 t + 7 for the second. With this order, the lanes of a load access different
// banks, and a lane loads its 8 channels of a centroid at once.
template <typename S>
class Scores<S, true> {
  using R = Row<S>;

 public:
  template <bool kRaw>
  __device__ void add(const Points<S>& points, int64_t, const uint32_t* tile, int64_t channel, int begin, int end,
                      int64_t column) {
    for (int block = begin; block < end; block += 32) {
      const uint32_t* from = tile + (block + 8 * t()) * R::kPitch + g();
      uint32_t a[kTiles][2][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const uint32_t low = from[2 * pair * R::kPitch + 8 * i], high = from[(2 * pair + 1) * R::kPitch + 8 * i];
          a[i][pair / 2][pair % 2 * 2] = __byte_perm(low, high, 0x5410);
          a[i][pair / 2][pair % 2 * 2 + 1] = __byte_perm(low, high, 0x7632);
        }
      }
#pragma unroll
      for (int k = 0; k < kColumns / 8; ++k) {
        if (column + 8 * k >= points.rows) break;
#pragma unroll
        for (int piece = kPieces<S> - 1; piece >= 0; --piece) {  // the smallest piece first
          const int64_t row = piece * points.columns + column + 8 * k + g();
          const auto b = *reinterpret_cast<const Vector<uint32_t>*>(points.pieces + row * points.channels + channel +
                                                                    block + 8 * t());
#pragma unroll
          for (int half_block = 0; half_block < 2; ++half_block) {
            const uint32_t pairs[2] = {b.values[2 * half_block], b.values[2 * half_block + 1]};
#pragma unroll
            for (int i = 0; i < kTiles; ++i) multiply_add<S>(sum_[i][k], a[i][half_block], pairs);
          }
        }
      }
    }
  }

  template <typename F>
  __device__ void for_each(F&& f) const {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int k = 0; k < kColumns / 8; ++k) {
#pragma unroll
        for (int r = 0; r < 4; ++r) f(2 * (8 * i + g()) + r / 2, 8 * k + 2 * t() + r % 2, sum_[i][k][r]);
      }
    }
  }

 private:
  static constexpr int kTiles = R::kPixels / 16;
  __device__ static int g() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  __device__ static int t() { return static_cast<int>(threadIdx.x) % 4; }

  float sum_[kTiles][kColumns / 8][4]{};
};

}  // namespace stylefast
