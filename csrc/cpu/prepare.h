// SPDX-License-Identifier: Apache-2.0
// Inputs of the kernels that assign labels: packed centroids and, for standardised features, statistics of the planes.
#pragma once

#include "isa.h"
#include "source.h"

namespace stylefast {

template <typename T>
struct Prepared {
  Prepared(const Source& a, Features features, const Tensor& centroid_rows)
      : a(a),
        features(features),
        clusters(centroid_rows.numel() / a.c),
        centroids(padded<T>(clusters) * padded<T>(a.c)),
        statistics(features == Features::kStandardized ? 2 * a.n * padded<T>(a.c) : 0) {
    STYLEFAST_PICK(pack_centroids<T>)(data<T>(centroid_rows), clusters, a.c, centroids);
    if (features == Features::kStandardized) {
      const auto kernel = STYLEFAST_PICK(plane_statistics<T>);
      const int64_t parts = parts_for(a.n, 16 * a.c * a.positions());
      parallel(parts, [&](int64_t part) {
        kernel(a, part_begin(a.n, part, parts), part_begin(a.n, part + 1, parts), statistics);
      });
    }
  }

  Points<T> points() const { return {a, features, statistics, centroids, clusters}; }

  Source a;
  Features features;
  int64_t clusters;      // of all restarts
  Buffer<T> centroids;   // in the order of pack_centroids()
  Buffer<T> statistics;  // [N, 2, padded C]: mean and 1/std
};

}  // namespace stylefast
