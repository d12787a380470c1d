// SPDX-License-Identifier: Apache-2.0
// Kernel of assign_contribution.
//
// A part owns whole images, or segments of images if there are fewer images than threads. Per tile: choose the labels,
// sort the positions by label, and add their moments while the tile is in cache. At the end of an image its moments are
// folded into M.
#include "moments.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// The labels and moments of tiles, with the buffers of one part.
template <typename T>
class MomentsPass {
  static constexpr int L = kLanes<T>;

 public:
  explicit MomentsPass(const MomentsTask<T>& task)
      : task_(task),
        a_(task.points.a),
        raw_(task.points.features == Features::kRaw),
        pixels_(tile_pixels<T>(a_.c, (a_.plane() + task.segments - 1) / task.segments)),
        tile_(a_.c, pixels_),
        features_(raw_ ? 0 : a_.c, pixels_),
        scores_(scores_size<T>(pixels_, task.points.clusters)),
        norm_(pixels_),
        similarity_(pixels_),
        weight_(pixels_),
        label_(pixels_),
        best_(pixels_),
        runs_(pixels_, task.points.clusters + 1) {}

  int64_t tiles() const { return (a_.plane() + pixels_ - 1) / pixels_; }

  // Labels tiles [begin, end) of image n and adds their moments. If channels are standardised, the shift is a mean of
  // positions of the first of these tiles.
  void add(int64_t n, int64_t begin, int64_t end, const Moments<T>& moments) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t offset = t * pixels_, first = n * a_.plane() + offset,
                    count = std::min(pixels_, a_.plane() - offset);
      choose_labels(first, count);
      runs_.sort(label_, count);
      int32_t start = 0;
      for (const Run& run : runs_) moments.counts[run.label] += static_cast<T>(run.end - std::exchange(start, run.end));
      for (int64_t s = 0; s * L < a_.c; ++s) {
        const T* slab = tile_.slab(s);
        if (task_.standardize && t == begin) store(moments.shift + s * L, sample_mean(slab, count));
        add_slab<T>(slab, s, runs_, moments, {reinterpret_cast<const char*>(slab), 0});
      }
    }
  }

 private:
  void choose_labels(int64_t first, int64_t count) {
    const int64_t clusters = task_.points.clusters;
    score_tile<T>(task_.points, first, count, tile_, raw_ ? tile_ : features_, norm_, scores_);
    choose<T>(scores_, score_columns<T>(clusters), 0, clusters, count, best_);
    finish_labels<T>(best_, norm_, count, label_, similarity_, weight_);
    std::copy(label_ + 0, label_ + count, task_.labels + first);
  }

  const MomentsTask<T>& task_;
  const Source& a_;
  bool raw_;  // points are the activations themselves
  int64_t pixels_;
  Tile<T> tile_, features_;
  Buffer<T> scores_, norm_, similarity_, weight_;
  Buffer<int32_t> label_;
  Best<T> best_;
  Runs runs_;
};

template <typename T>
void start_sums(const MomentsTask<T>& task, int64_t part) {
  const int64_t size = task.points.clusters * task.output.stride;
  if (task.output.sums != nullptr) std::fill(task.output.sums + part * size, task.output.sums + (part + 1) * size, 0.0);
}

// Adds M of image n to the sums of `part`, or writes it to the image's own M.
template <typename T>
void fold_image(const MomentsTask<T>& task, int64_t part, int64_t n, const Moments<T>& moments) {
  const int64_t c = task.points.a.c, stride = task.output.stride;
  double* sum = task.output.sums == nullptr ? nullptr : task.output.sums + part * task.points.clusters * stride;
  T* image = task.output.images == nullptr ? nullptr : task.output.images + n * task.points.clusters * c;
  fold<T>(moments, task.standardize, static_cast<T>(task.points.a.plane()), c, sum, stride, image, c);
}

template <typename T>
void moments_kernel(const MomentsTask<T>& task, int64_t part, int64_t parts, std::vector<Moments<T>>& segment_moments) {
  MomentsPass<T> pass(task);
  if (task.segments > 1) {  // every segment keeps its moments until fold_segments()
    const int64_t units = task.points.a.n * task.segments;
    for (int64_t u = part_begin(units, part, parts); u < part_begin(units, part + 1, parts); ++u) {
      const int64_t j = u % task.segments, tiles = pass.tiles();
      const int64_t begin = part_begin(tiles, j, task.segments), end = part_begin(tiles, j + 1, task.segments);
      pass.add(u / task.segments, begin, end, segment_moments[u]);
    }
    return;
  }
  Moments<T> moments(task.points.clusters, padded<T>(task.points.a.c));
  start_sums(task, part);
  for (int64_t n = part_begin(task.points.a.n, part, parts); n < part_begin(task.points.a.n, part + 1, parts); ++n) {
    clear<T>(moments);
    pass.add(n, 0, pass.tiles(), moments);
    fold_image(task, part, n, moments);
  }
}

// Merges the segments of every image, in order, and folds the images into M.
template <typename T>
void fold_segments(const MomentsTask<T>& task, const std::vector<Moments<T>>& segment_moments) {
  start_sums(task, 0);
  for (int64_t n = 0; n < task.points.a.n; ++n) {
    const Moments<T>& image = segment_moments[n * task.segments];
    for (int64_t j = 1; j < task.segments; ++j) merge<T>(segment_moments[n * task.segments + j], image);
    fold_image(task, 0, n, image);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
