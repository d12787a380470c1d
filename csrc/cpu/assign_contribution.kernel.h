// SPDX-License-Identifier: Apache-2.0
// stylefast::assign_contribution: labels and moments of a tile while it is in cache. Given labels instead of centroids,
// the same pass is stylefast::contribution on labels of the layer's own size.
#include "moments.h"

namespace stylefast {
namespace STYLEFAST_ISA {

template <typename T>
class MomentsPass {
 public:
  MomentsPass(const MomentsTask<T>& task, int64_t row)
      : task_(task),
        pixels_(tile_pixels<T>(task.a.c, task.a.plane())),
        tile_(row * pixels_),
        features_(row * pixels_),
        rows_(pixels_ * kLanes<T>),
        similarity_(pixels_),
        weight_(pixels_),
        label_(pixels_),
        best_(pixels_),
        runs_(pixels_, task.clusters + 1) {
    std::fill(tile_ + task.a.c * pixels_, tile_ + row * pixels_, T(0));
  }

  int64_t tiles() const { return (task_.a.plane() + pixels_ - 1) / pixels_; }

  // Labels tiles [begin, end) of image n and adds their moments.
  void add(int64_t n, int64_t begin, int64_t end, const Moments<T>& to) {
    const Source& a = task_.a;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t offset = t * pixels_, first = n * a.plane() + offset, count = std::min(pixels_, a.plane() - offset);
      pack<T>(a, first, count, tile_, pixels_);
      for (int64_t c = 0; task_.standardize && t == begin && c < a.c; ++c) {
        to.shift[c] = row_mean<T>(tile_ + c * pixels_, count);
      }
      label(first, count);
      runs_.sort(label_, count);
      add_tile<T>(tile_, pixels_, runs_, rows_, to);
    }
  }

 private:
  void label(int64_t first, int64_t count) {
    if (task_.centroids == nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        const int32_t given = task_.labels[first + i];
        label_[i] = given >= 0 && given < task_.clusters ? given : static_cast<int32_t>(task_.clusters);
      }
      return;
    }
    const T* points = tile_;
    if (task_.features != Features::kRaw) {
      std::copy(tile_ + 0, tile_ + task_.a.c * pixels_, features_ + 0);
      make_features<T>(task_.a, task_.features, task_.statistics, first, count, features_, pixels_);
      points = features_;
    }
    score_tile<T>(points, pixels_, task_.a.c, task_.centroids, task_.clusters, best_);
    finish_labels<T>(best_, count, label_, similarity_, weight_);
    std::copy(label_ + 0, label_ + count, task_.chosen + first);
  }

  const MomentsTask<T>& task_;
  int64_t pixels_;
  Buffer<T> tile_, features_, rows_, similarity_, weight_;
  Buffer<int32_t> label_;
  Best<T> best_;
  Runs runs_;
};

template <typename T>
void start_sums(const MomentsTask<T>& task, int64_t part) {
  const int64_t size = task.clusters * padded<T>(task.a.c);
  if (task.to.sums != nullptr) std::fill(task.to.sums + part * size, task.to.sums + (part + 1) * size, 0.0);
}

template <typename T>
void fold_image(const MomentsTask<T>& task, int64_t part, int64_t n, const Moments<T>& moments) {
  const int64_t c = task.a.c, row = padded<T>(c);
  double* sum = task.to.sums == nullptr ? nullptr : task.to.sums + part * task.clusters * row;
  T* image = task.to.images == nullptr ? nullptr : task.to.images + n * task.clusters * c;
  fold<T>(moments, task.standardize, static_cast<T>(task.a.plane()), c, sum, row, image, c);
}

template <typename T>
void moments_kernel(const MomentsTask<T>& task, int64_t part, int64_t parts, std::vector<Moments<T>>& pieces) {
  MomentsPass<T> pass(task, padded<T>(task.a.c));
  if (task.pieces > 1) {  // every piece keeps its moments until fold_pieces() joins them
    const int64_t units = task.a.n * task.pieces;
    for (int64_t u = share(units, part, parts); u < share(units, part + 1, parts); ++u) {
      const int64_t j = u % task.pieces;
      const int64_t begin = share(pass.tiles(), j, task.pieces), end = share(pass.tiles(), j + 1, task.pieces);
      pass.add(u / task.pieces, begin, end, pieces[u]);
    }
    return;
  }
  Moments<T> moments(task.clusters, padded<T>(task.a.c));
  start_sums(task, part);
  for (int64_t n = share(task.a.n, part, parts); n < share(task.a.n, part + 1, parts); ++n) {
    moments.clear();
    pass.add(n, 0, pass.tiles(), moments);
    fold_image(task, part, n, moments);
  }
}

template <typename T>
void fold_pieces(const MomentsTask<T>& task, const std::vector<Moments<T>>& pieces) {
  start_sums(task, 0);
  for (int64_t n = 0; n < task.a.n; ++n) {
    const Moments<T>& all = pieces[n * task.pieces];
    for (int64_t j = 1; j < task.pieces; ++j) merge<T>(pieces[n * task.pieces + j], all);
    fold_image(task, 0, n, all);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
