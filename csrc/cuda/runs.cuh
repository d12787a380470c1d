// SPDX-License-Identifier: Apache-2.0
// Sums by label without atomics. The positions of a tile are sorted by label. Each thread owns a channel, adds each run
// of equal labels in registers, and writes one sum per run. The order of additions is fixed, so results are bitwise
// repeatable.
#pragma once

#include "tile.cuh"

namespace stylefast {

inline constexpr int32_t kNone = INT32_MAX;  // label of positions that are left out; sorts last

// A position of a tile with its label and its weight.
template <typename T>
struct alignas(16) Entry {
  T weight;
  int32_t position, label;
};

template <typename T>
struct Runs {
  __host__ __device__ Runs(Carver& carver, int size)
      : size(size),
        label(carver.take<int32_t>(size)),
        weight(carver.take<T>(size)),
        entry(carver.take<Entry<T>>(size)) {}

  // Sorts the positions by label; positions of equal label keep their order. A thread finds the rank of its position by
  // counting the positions before it.
  __device__ void sort() const {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
      const int32_t key = label[i];
      int rank = 0;
      for (int j = 0; j < size; j += 4) {
        const auto keys = *reinterpret_cast<const Vector<int32_t>*>(label + j);
#pragma unroll
        for (int e = 0; e < 4; ++e) rank += keys.values[e] < key || (keys.values[e] == key && j + e < i);
      }
      entry[rank] = {weight[i], i, key};
    }
    __syncthreads();
  }

  // Calls f(label, first, end) once for each run of sorted entries, by one thread.
  template <typename F>
  __device__ void for_each(F&& f) const {
    for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
      const int32_t run_label = entry[i].label;
      if (run_label == kNone || (i > 0 && entry[i - 1].label == run_label)) continue;
      int end = i + 1;
      while (end < size && entry[end].label == run_label) ++end;
      f(run_label, i, end);
    }
  }

  int size;         // a multiple of 4
  int32_t* label;   // [size]
  T* weight;        // [size]
  Entry<T>* entry;  // [size], sorted
};

// Calls sum.add(element, weight) for the elements of a channel's row in sorted order, and sum.end(label) after each
// run.
template <typename S, typename Sum>
__device__ void add_runs(const Runs<typename Row<S>::T>& runs, const typename Row<S>::Word* row, Sum& sum) {
  using T = typename Row<S>::T;
  constexpr int kAhead = 4;  // loads in flight
  int32_t label = runs.entry[0].label;
  for (int i = 0; i < runs.size && runs.entry[i].label != kNone; i += kAhead) {
    Entry<T> entry[kAhead];
    T x[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      entry[j] = runs.entry[i + j];
      x[j] = Row<S>::pixel(row, entry[j].position);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (entry[j].label != label) {
        sum.end(label);
        label = entry[j].label;
      }
      sum.add(x[j], entry[j].weight);
    }
  }
  if (label != kNone) sum.end(label);
}

}  // namespace stylefast
