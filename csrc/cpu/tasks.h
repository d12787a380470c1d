// SPDX-License-Identifier: Apache-2.0
// Arguments of the CPU kernels. They are the same for all instruction sets.
#pragma once

#include "../common/views.h"

namespace stylefast {

inline constexpr int kVectorBytes = 64;  // vector size of the widest set, a multiple of the size of every other set

// Channels, rounded up to whole vectors of the widest instruction set.
template <typename T>
int64_t padded(int64_t channels) {
  return round_up(channels, kVectorBytes / static_cast<int64_t>(sizeof(T)));
}

enum class Element { kFloat, kDouble, kHalf, kBfloat16 };

// Activations of any element type. Only the packing of tiles reads the element type.
struct Source : Activations<void> {
  int64_t element_size() const { return element == Element::kDouble ? 8 : element == Element::kFloat ? 4 : 2; }
  // Address of an element. Positions are counted over all images.
  const char* address(int64_t position, int64_t channel) const {
    const int64_t image = position / plane(), offset = position % plane();
    return static_cast<const char*>(data) +
           element_size() * (image * stride_n + channel * stride_c + (offset / w) * stride_h + (offset % w) * stride_w);
  }

  Element element;
};

// The points to label and the centroids to choose from.
template <typename T>
struct Points {
  Source a;
  Features features;
  const T* statistics;  // [N, 2, padded C]: mean and 1/std, only for standardised features
  const T* centroids;   // in the order of pack_centroids()
  int64_t clusters;     // of all restarts
};

template <typename T>
struct AssignTask {
  Points<T> points;
  int32_t* labels;  // [N, H, W]
  T* similarity;    // [N, H, W]
};

template <typename T>
struct LloydTask {
  Points<T> points;
  int64_t restarts, clusters;  // B, K
  int32_t* labels;             // [B, N, H, W]
  double* sums;                // [parts, B, K, padded C]
  int64_t* counts;             // [parts, B, K]
  double* objective;           // [parts, B]
};

template <typename T>
struct FactorTask {
  Points<T> points;      // the activations, and the components as centroids
  Points<T> components;  // the components [K, C] as points
  int64_t sweeps;
  T* memberships;                    // [N, K, H, W]
  double *products, *gram, *energy;  // [parts, K, padded C], [parts, K, padded K], [parts]
};

// Bounds [2, B, N, H, W] are lower bounds on the cosine to the centroid of the label, and upper bounds on the cosines
// to all other centroids.
template <typename T>
struct PrunedTask {
  Points<T> points;
  int64_t restarts, clusters;  // B, K
  const T* rows;               // centroids, [B, K, padded C]
  const T* packed;             // centroids in the order of pack_centroids(), per restart
  int64_t packed_size;         // elements of `packed` per restart
  const int32_t* labels;       // [B, N, H, W] of the previous step, or nullptr to score all positions
  const T* former_bounds;      // for the centroids of the previous step
  const T* moved;              // [2, B, K]: largest movement since then of centroid k, and of the other centroids
  int64_t movers_count;        // per restart, the number of centroids that moved most
  const int32_t* movers;       // [B, movers_count]: these centroids
  const T* packed_movers;      // these centroids in the order of pack_centroids(), per restart
  int64_t packed_movers_size;  // elements of `packed_movers` per restart
  const T* rest;               // [B]: largest movement since then of the other centroids
  T grid;                      // 1.5 * 2^(23 - q), to round to multiples of 2^-q
  int32_t* new_labels;         // [B, N, H, W]
  T* bounds;
  double* sums;     // [parts, B, K, padded C], changes since the previous step
  int64_t* counts;  // [parts, B, K], changes since the previous step
};

// Moments of the clusters in one image, or in one segment of it. Row K collects the positions without a cluster,
// because the mean and the variance of a channel include them. U is the weight of a cluster at a position: 1 or 0, or a
// fraction if labels are resized.
template <typename T>
struct Moments {
  Moments(int64_t clusters, int64_t width)
      : clusters(clusters),
        width(width),
        shift(width),
        sums((clusters + 1) * width),
        squares((clusters + 1) * width),
        counts(clusters + 1) {
    std::fill(sums + 0, sums + (clusters + 1) * width, T(0));
    std::fill(squares + 0, squares + (clusters + 1) * width, T(0));
    std::fill(shift + 0, shift + width, T(0));
    std::fill(counts + 0, counts + clusters + 1, T(0));
  }

  int64_t clusters, width;  // K; channels, rounded up to whole vectors
  Buffer<T> shift;          // [width]
  Buffer<T> sums, squares;  // [width / kLanes, K + 1, kLanes]: sum of U (a - shift), sum of U (a - shift)^2
  Buffer<T> counts;         // [K + 1]: sum of U
};

// Output of M: either one sum over images per part, or one M per image. The other pointer is nullptr.
template <typename T>
struct Contributions {
  double* sums;    // [parts, K, stride]
  int64_t stride;  // at least C; a cache line more than whole vectors, so that rows do not share cache sets
  T* images;       // [N, K, C]
};

template <typename T>
struct MomentsTask {
  Points<T> points;
  int32_t* labels;  // [N, H, W], written
  bool standardize;
  int64_t segments;  // per image: 1 unless there are fewer images than threads
  Contributions<T> output;
};

template <typename T>
struct LabelledTask {
  Source a;
  const int32_t* labels;  // [N, H, W]
  int64_t clusters;
  bool standardize;
  Contributions<T> output;
};

// Resize of one axis of the label grid to the layer: position i gets (1 - weight) of cell low and weight of cell high,
// which is zero where the two cells are one.
template <typename T>
struct Axis {
  Axis(int64_t cells, int64_t size) : cells(cells), low(size), high(size), weight(size), area(cells) {}
  int64_t cells;
  Buffer<int32_t> low, high;  // [size]
  Buffer<T> weight;           // [size]
  Buffer<T> area;             // [cells]: sum of a cell's weights over all positions
};

// Activations that are pooled onto a grid of cells.
template <typename S, typename T = typename Compute<S>::type>
struct Pooling {
  Activations<S> a;
  bool standardize;  // whether values are taken about a shift
  const Axis<T>& y;
  const Axis<T>& x;
};

template <typename S, typename T = typename Compute<S>::type>
struct PoolTask : Pooling<S> {
  const int32_t* labels;  // [N, y.cells, x.cells]
  int64_t clusters;
  Contributions<T> output;
};

// Memberships U of the layer's own size, or of another size that the axes resize.
template <typename T>
struct SoftTask {
  Source a;
  const T* memberships;  // [N, K, H, W], or [N, K, y->cells, x->cells]
  int64_t clusters;
  bool standardize;
  const Axis<T>*y, *x;  // nullptr for the layer's own size
  Contributions<T> output;
};

template <typename S, typename T = typename Compute<S>::type>
struct SoftPoolTask : Pooling<S> {
  const T* memberships;  // [N, K, y.cells, x.cells]
  int64_t clusters;
  Contributions<T> output;
};

// Rows of styles or queries: row i begins at data + i * stride.
template <typename T>
struct Rows {
  const T* data;
  int64_t count, stride;  // rows; elements from one row to the next
};

template <typename S, typename T = typename Compute<S>::type>
struct BlendTask {
  Rows<S> target;              // [T, S]
  Rows<S> reference;           // [R, S]
  Rows<T> query;               // [Q, S]
  const int64_t* edits;        // [E, 3] or nullptr
  const T* strength;           // [E] or nullptr
  S* out;                      // [E, S]
  int64_t edits_count, width;  // E, S
  bool past_caches;            // whether stores bypass the caches
};

}  // namespace stylefast
