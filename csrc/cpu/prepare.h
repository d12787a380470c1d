// SPDX-License-Identifier: Apache-2.0
// What the ops that assign need before their kernel: centroids in the kernel's order, statistics of standardised
// planes.
#pragma once

#include "isa.h"
#include "source.h"

namespace stylefast {

template <typename T>
struct Prepared {
  Prepared(const Source& a, Features kind, const Tensor& source)
      : features(kind), centroids(source.numel()), statistics(kind == Features::kStandardized ? 2 * a.n * a.c : 0) {
    const int64_t rank = source.dim(), restarts = rank == 3 ? source.size(0) : 1;
    STYLEFAST_PICK(pack_centroids<T>)(data<T>(source), restarts, source.size(rank - 2), a.c, centroids);
    if (kind == Features::kStandardized) {
      const auto kernel = STYLEFAST_PICK(plane_statistics<T>);
      const int64_t parts = parts_for(a.n);
      parallel(parts,
               [&](int64_t part) { kernel(a, share(a.n, part, parts), share(a.n, part + 1, parts), statistics); });
    }
  }

  Features features;
  Buffer<T> centroids;
  Buffer<T> statistics;  // [N][C] mean and 1/std
};

}  // namespace stylefast
