// SPDX-License-Identifier: Apache-2.0
// stylefast::lloyd_step: a tile is read once, then assigned and summed for every restart while it is in cache.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int64_t kTilesAFlush = 64;  // float sums of so many tiles go to double: bounded rounding at any N

template <typename T>
void flush(T* sums, double* total, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    total[i] += sums[i];
    sums[i] = 0;
  }
}

template <typename T>
void lloyd_kernel(const LloydTask<T>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const Source& a = task.a;
  const int64_t positions = a.positions(), pixels = tile_pixels<T>(a.c, positions);
  const int64_t tiles = (positions + pixels - 1) / pixels, clusters = task.clusters, restarts = task.restarts;
  const int64_t row = padded<T>(a.c), size = restarts * clusters * row;
  double* total = task.sums + part * size;
  int64_t* counts = task.counts + part * restarts * clusters;
  double* objective = task.objective + part * restarts;

  Buffer<T> tile(row * pixels), rows(pixels * L), sums(size), similarity(pixels), weight(pixels);
  Buffer<int32_t> label(pixels);
  const Best<T> best(pixels);
  std::vector<Runs> runs;
  runs.reserve(restarts);
  for (int64_t b = 0; b < restarts; ++b) runs.emplace_back(pixels, clusters);
  std::fill(tile + a.c * pixels, tile + row * pixels, T(0));
  std::fill(sums + 0, sums + size, T(0));
  std::fill(total, total + size, 0.0);
  std::fill(counts, counts + restarts * clusters, 0);
  std::fill(objective, objective + restarts, 0.0);

  const int64_t begin = share(tiles, part, parts), end = share(tiles, part + 1, parts);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * pixels, count = std::min(pixels, positions - first);
    pack<T>(a, first, count, tile, pixels);
    make_features<T>(a, task.features, task.statistics, first, count, tile, pixels);
    for (int64_t b = 0; b < restarts; ++b) {
      const T* centroids = task.centroids + b * clusters * a.c;
      score_tile<T>(tile, pixels, a.c, centroids, clusters, best);
      finish_labels<T>(best, count, label, similarity, weight);
      std::copy(label + 0, label + count, task.labels + b * positions + first);
      for (int64_t i = 0; i < count; ++i) {
        objective[b] += similarity[i];
        if (weight[i] == 0) label[i] = -1;
      }
      runs[b].sort(label, count);
      int32_t start = 0;
      for (const Run& run : runs[b]) counts[b * clusters + run.label] += run.end - std::exchange(start, run.end);
    }
    std::fill(weight + count, weight + pixels, T(0));
    for (int64_t c = 0; c < row; c += L) {
      const T* w = weight;
      transpose_block<T>(
          tile + c * pixels, pixels, pixels, [w](Vec<T> x, int64_t p, int) { return x * load(w + p); }, rows);
      for (int64_t b = 0; b < restarts; ++b) {
        int32_t start = 0;
        for (const Run& run : runs[b]) {
          T* sum = sums + (b * clusters + run.label) * row + c;
          store(sum, load(sum) + sum_rows<T>(rows, runs[b].order, std::exchange(start, run.end), run.end));
        }
      }
    }
    if ((t - begin + 1) % kTilesAFlush == 0 || t + 1 == end) flush<T>(sums, total, size);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
