// SPDX-License-Identifier: Apache-2.0
// Labels of a tile. The block computes the scores of 32 centroids at a time, and one thread per position keeps the best
// centroid.
#pragma once

#include "score.cuh"

namespace stylefast {

// Shared memory of a block that assigns labels.
template <typename S>
struct LabelMemory {
  using R = Row<S>;
  using T = typename R::T;
  static constexpr int kPitch = R::kPixels + 1;  // from one row of scores to the next

  __host__ __device__ LabelMemory(Carver& carver, int channels)
      : channels(channels),
        tile(carver.take<typename R::Word>(channels * R::kPitch)),
        scores(carver.take<T>(kSlots * kColumns * kPitch)),
        squares(carver.take<T>(kWarps * R::kPixels)),
        weight(carver.take<T>(R::kPixels)) {}

  int channels;            // rows of the tile
  typename R::Word* tile;  // [channels, R::kPitch]
  T* scores;               // [kSlots, kColumns, kPitch]
  T* squares;              // [kWarps, kPixels]
  T* weight;               // [kPixels]: 1 / |x|, 0 where |x| is zero or not finite
};

// Outputs of a tile. `similarity` and `objective` may be null.
template <typename T>
struct Labels {
  int32_t* label;                  // [B, N, H, W]
  T* similarity;                   // [B, N, H, W]
  double* objective;               // [B, kPixels]; the cosines are added to it
  int64_t offset, restart_stride;  // index of the tile's first position; from one restart to the next
};

// Best centroid of a position so far. As in the reference, the lowest label wins ties and NaN never wins.
template <typename T>
struct Best {
  T score;
  int32_t label;
  int64_t cluster, restart;  // of the next score

  __device__ void start() { score = -INFINITY, label = 0, cluster = 0; }
};

// Adds the squared features of channels [begin, end) of a tile. A lane owns the positions of one word.
template <typename S>
__device__ void add_squares(const Points<S>& points, int64_t n, const LabelMemory<S>& memory, int64_t channel,
                            int begin, int end, typename Row<S>::T (&square)[Row<S>::kPack]) {
  using R = Row<S>;
  const int word = static_cast<int>(threadIdx.x) % 32;
  if (word >= R::kWords) return;
#pragma unroll 4
  for (int c = begin; c < end; ++c) {
    const Feature<S> feature(points, n, channel + c);
    const typename R::Word x = memory.tile[c * R::kPitch + word];
#pragma unroll
    for (int i = 0; i < R::kPack; ++i) {
      const auto value = points.raw() ? R::value(x, i) : feature(R::value(x, i));
      square[i] = fma(value, value, square[i]);
    }
  }
}

// Adds the partial sums of the warps to the slots of memory.scores, kSlots warps at a time, in a fixed order.
template <typename S, typename Sums>
__device__ void add_up(const Sums& sums, const LabelMemory<S>& memory) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  typename Row<S>::T* slot = memory.scores + warp % kSlots * kColumns * LabelMemory<S>::kPitch;
  for (int turn = kWarps / kSlots - 1; turn >= 0; --turn) {
    if (warp / kSlots == turn) {
      sums.for_each([&](int p, int k, typename Row<S>::T score) {
        typename Row<S>::T& to = slot[k * LabelMemory<S>::kPitch + p];
        to = turn == kWarps / kSlots - 1 ? score : to + score;
      });
    }
    __syncthreads();
  }
}

// Writes the outputs of position p of the tile for one restart, and its weight.
template <typename S>
__device__ void finish(const Best<typename Row<S>::T>& best, int p, const LabelMemory<S>& memory,
                       const Labels<typename Row<S>::T>& to) {
  using T = typename Row<S>::T;
  T square = 0;
  for (int warp = 0; warp < kWarps; ++warp) square += memory.squares[warp * Row<S>::kPixels + p];
  const bool finite = square < static_cast<T>(INFINITY), counts = finite && square > 0;
  const T norm = sqrt(square), nan = static_cast<T>(NAN);
  const bool scored = best.score > static_cast<T>(-INFINITY);
  const T cosine = counts && scored ? best.score / norm : finite && !counts ? T(0) : nan;
  const int64_t i = to.offset + best.restart * to.restart_stride + p;
  to.label[i] = counts ? best.label : 0;
  memory.weight[p] = counts ? 1 / norm : T(0);
  if (to.similarity != nullptr) to.similarity[i] = cosine;
  if (to.objective != nullptr) to.objective[best.restart * Row<S>::kPixels + p] += static_cast<double>(cosine);
}

// Updates the best centroid of position p with the scores of centroids [column, column + kColumns). Writes the outputs
// at the end of each restart.
template <typename S>
__device__ void choose(const Points<S>& points, int64_t column, int p, const LabelMemory<S>& memory,
                       Best<typename Row<S>::T>& best, const Labels<typename Row<S>::T>& to) {
  constexpr int kPitch = LabelMemory<S>::kPitch;
  for (int k = 0; k < kColumns && column + k < points.rows; ++k) {
    typename Row<S>::T score = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) score += memory.scores[(slot * kColumns + k) * kPitch + p];
    if (points.scale != nullptr) score *= points.scale[column + k];
    if (score > best.score) {
      best.score = score;
      best.label = static_cast<int32_t>(best.cluster);
    }
    if (++best.cluster == points.clusters) {
      finish<S>(best, p, memory, to);
      best.start();
      ++best.restart;
    }
  }
}

// Labels positions [first, first + kPixels) of image n for all restarts.
//
// Per 32 centroids, each warp computes partial scores over its channels. The partial scores are added in shared memory,
// and one thread per position updates its best centroid. If all channels fit into memory.tile, they are loaded once and
// stay there. Otherwise memory.channels channels are loaded at a time, again for every 32 centroids.
template <typename S, bool kRaw>
__device__ void label_tile(const Points<S>& points, int64_t n, int64_t first, const LabelMemory<S>& memory,
                           const Labels<typename Row<S>::T>& to) {
  using R = Row<S>;
  using T = typename R::T;
  constexpr bool kMatrix = kRaw && R::kPack == 2;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int p = static_cast<int>(threadIdx.x);
  const bool chooses = p < R::kPixels && first + p < points.a.plane();
  Best<T> best{};
  best.start();
  for (int64_t column = 0; column < points.rows; column += kColumns) {
    Scores<S, kMatrix> sums;
    T square[R::kPack]{};
    for (int64_t channel = 0; channel < points.channels; channel += memory.channels) {
      const int rows = static_cast<int>(min(points.a.c - channel, static_cast<int64_t>(memory.channels)));
      const int padded = static_cast<int>(round_up(rows, 32));
      if (column == 0 || points.channels > memory.channels) {
        __syncthreads();  // the previous tile is no longer used
        load_tile(points.a, n, span_of<S>(first), channel, rows, padded, memory.tile);
        __syncthreads();
      }
      const int warp_channels =
          kMatrix ? static_cast<int>(round_up((padded + kWarps - 1) / kWarps, 32)) : padded / kWarps;
      const int begin = min(warp * warp_channels, rows), end = min(begin + warp_channels, rows);
      if (column == 0) add_squares(points, n, memory, channel, begin, end, square);
      sums.template add<kRaw>(points, n, memory.tile, channel, begin, end, column);
    }
    if (column == 0 && lane < R::kWords) {
#pragma unroll
      for (int i = 0; i < R::kPack; ++i) memory.squares[warp * R::kPixels + lane * R::kPack + i] = square[i];
    }
    add_up(sums, memory);
    if (chooses) choose(points, column, p, memory, best, to);
    __syncthreads();  // the scores are no longer used
  }
}

}  // namespace stylefast
