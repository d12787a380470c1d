// SPDX-License-Identifier: Apache-2.0
// Moments of activations whose labels lie on another grid. A position lies between four cells of the grid.
//
// A block owns a slice of channels and walks down a tile of columns, one row of positions at a time. A thread owns 16
// bytes: neighbouring columns of a channel, or neighbouring channels of a column. It keeps two sums of every column in
// registers: for the row of cells above the position and for the row below. If the walk leaves a row of cells, the
// block adds the columns of every cell, then adds the cells to the moments of their labels. Every element is read once.
// The order of additions is fixed, so results are bitwise repeatable.
#pragma once

#include "pool_task.cuh"

namespace stylefast {

// Finds the cells that the columns of a tile reach. If the grid is finer than the plane, every column has two entries.
template <typename S>
__device__ int find_cells(const PoolTask<S>& task, const PoolMemory<S>& memory, int columns) {
  using T = typename Row<S>::T;
  const Tap<T>* taps = memory.column;
  const bool finer = task.grid.w > task.a.w;
  const int32_t first = taps[0].low, last = taps[columns - 1].low + (taps[columns - 1].weight != 0);
  const int count = finer ? 2 * columns : last - first + 1;
  // The first column that `reaches` is true of; it is false of the columns before and true of those after.
  const auto search = [&](auto&& reaches) {
    int begin = 0, size = columns;
    for (; size > 0; size /= 2) {
      const int middle = begin + size / 2;
      if (!reaches(taps[middle])) begin = middle + 1, --size;
    }
    return begin;
  };
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kPoolThreads) {
    Cell<T> cell{first + i, 0, 0, T(0)};
    if (finer) {
      cell = {taps[i / 2].low + i % 2, i / 2, i / 2 + 1, T(0)};
      if (i % 2 != 0 && taps[i / 2].weight == 0) cell.column = taps[i / 2].low, cell.end = cell.begin;
    } else {
      cell.begin = search([&](Tap<T> tap) { return tap.low + (tap.weight != 0) >= cell.column; });
      cell.end = search([&](Tap<T> tap) { return tap.low > cell.column; });
    }
    for (int x = cell.begin; x < cell.end; ++x) cell.weight += taps[x].of_cell(cell.column);
    memory.cell[i] = cell;
  }
  return count;
}

// Adds the sums of the columns for row `y` of cells, whose positions have `weight` together, to the moments.
template <typename S, typename M>
__device__ void add_cells(const PoolTask<S>& task, const PoolMemory<S>& memory, int64_t n, int y, int cells,
                          typename Row<S>::T weight, const M& moments) {
  using T = typename Row<S>::T;
  const int thread = static_cast<int>(threadIdx.x);
  const int32_t* labels = task.grid.labels;
  if (labels != nullptr) labels += (n * task.grid.h + y) * task.grid.w;
  __syncthreads();  // memory.partial has been written
  for (int i = thread; i < cells; i += kPoolThreads) {
    const int32_t column = memory.cell[i].column;
    const int32_t label = labels == nullptr ? y * static_cast<int32_t>(task.grid.w) + column : labels[column];
    memory.label[i] = label >= 0 && label < task.clusters ? label : static_cast<int32_t>(task.clusters);
  }
  for (int i = thread; i < cells * task.width; i += kPoolThreads) {
    const Cell<T> cell = memory.cell[i % cells];
    const Sums<T>* from = memory.partial + i / cells * task.columns;
    Sums<T> sums{};
    for (int x = cell.begin; x < cell.end; ++x) {
      const T factor = memory.column[x].of_cell(cell.column);
      sums.sum = fma(factor, from[x].sum, sums.sum), sums.square = fma(factor, from[x].square, sums.square);
    }
    memory.pooled[i / cells * task.max_cells + i % cells] = sums;
  }
  __syncthreads();
  if (thread < task.width) {
    for (int i = 0; i < cells; ++i) {
      Sums<T>& to = moments.sums[memory.label[i] * task.width + thread];
      Sums<T> sums = to;
      sums.add(memory.pooled[thread * task.max_cells + i]);
      to = sums;
    }
  } else if (thread == kPoolThreads - 1) {
    for (int i = 0; i < cells; ++i) moments.counts[memory.label[i]] += weight * memory.cell[i].weight;
  }
}

// Sums of the elements of a thread for one row of cells, and the weight of the rows of positions.
template <typename T, int kVector>
struct RowSums {
  Sums<T> sums[kVector]{};
  T weight = 0;

  __device__ void add(const Sums<T> (&powers)[kVector], T factor) {
    weight += factor;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[i].sum = fma(factor, powers[i].sum, sums[i].sum);
      sums[i].square = fma(factor, powers[i].square, sums[i].square);
    }
  }
};

// Writes the taps of kPoolRows rows from `first`.
template <typename S>
__device__ void set_rows(const PoolTask<S>& task, const PoolMemory<S>& memory, int64_t first) {
  for (int i = static_cast<int>(threadIdx.x); i < kPoolRows; i += kPoolThreads) {
    memory.row[i] = Tap<typename Row<S>::T>(first + i, task.grid.h, task.grid.step_h, task.grid.bilinear);
  }
}

// Writes the elements of a thread for one row of cells to memory.partial.
template <typename S>
__device__ void set_partial(const PoolTask<S>& task, const PoolMemory<S>& memory, const PoolVector<S>& own,
                            const RowSums<typename Row<S>::T, Row<S>::kVector>& from) {
  Sums<typename Row<S>::T>* to = memory.partial + own.c * task.columns + own.x;
  const int step = own.along_channels ? task.columns : 1;
#pragma unroll
  for (int i = 0; i < Row<S>::kVector; ++i) to[i * step] = from.sums[i];
}

// Adds rows [first, last) of a tile of columns that begins with `first_column` to the moments.
template <typename S, typename M>
__device__ void pool_tile(const PoolTask<S>& task, const PoolMemory<S>& memory, int64_t n, int64_t channel,
                          int64_t first_column, int64_t first, int64_t last, const M& moments) {
  using T = typename Row<S>::T;
  constexpr int kVector = Row<S>::kVector;
  const int thread = static_cast<int>(threadIdx.x);
  const int columns = static_cast<int>(min(task.a.w - first_column, static_cast<int64_t>(task.columns)));
  const int rows = static_cast<int>(last - first);
  PoolVector<S> own(task, n, channel, first_column, first);
  Vector<S>* const ring = memory.ring + thread;
  const auto stage_of = [](int y) { return static_cast<unsigned>(y) % kPoolStages * kPoolThreads; };
  const auto start_row = [&](int y) {
    if (y < rows) own.start_loading(ring + stage_of(y));
    commit_copies();
  };
  for (int y = 0; y < kPoolStages - 1; ++y) start_row(y);
  for (int x = thread; x < columns; x += kPoolThreads) {
    memory.column[x] = Tap<T>(first_column + x, task.grid.w, task.grid.step_w, task.grid.bilinear);
  }
  T shift[kVector];
  RowSums<T, kVector> above, below;
  int cells = 0, cell_row = 0;
#pragma unroll 1
  for (int y = 0; y <= rows; ++y) {
    if (y % kPoolRows == 0) {
      __syncthreads();  // taps of columns have been written, and taps of rows are no longer used
      if (y == 0) cells = find_cells(task, memory, columns);
      set_rows(task, memory, first + y);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kVector; ++i) shift[i] = moments.shift[own.c + (own.along_channels ? i : 0)];
      if (y == 0) cell_row = memory.row[0].low;
    }
    const Tap<T> tap = memory.row[y % kPoolRows];
    const int next_row = y < rows ? tap.low : cell_row + 2;
#pragma unroll 1
    for (; cell_row < next_row; ++cell_row) {
      if (above.weight != 0) {
        set_partial(task, memory, own, above);
        add_cells(task, memory, n, cell_row, cells, above.weight, moments);
      }
      above = below, below = {};
    }
    if (y == rows) break;
    start_row(y + kPoolStages - 1);
    wait_for_copies<kPoolStages - 1>();
    const Vector<S> vector = ring[stage_of(y)];
    const auto* words = reinterpret_cast<const typename Row<S>::Word*>(&vector);
    Sums<T> powers[kVector];  // d and d^2, with d = element - shift
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const T d = Row<S>::value(words[i / Row<S>::kPack], i % Row<S>::kPack) - shift[i];
      powers[i] = {d, d * d};
    }
    above.add(powers, 1 - tap.weight);
    if (tap.weight != 0) below.add(powers, tap.weight);  // otherwise Inf would reach the cells below as NaN
  }
}

// Writes the mean of positions that are spread over the plane of every channel to the shifts of the moments.
template <typename S, typename M>
__device__ void sample_shifts(const PoolTask<S>& task, const PoolMemory<S>& memory, int64_t n, int64_t channel,
                              int channels, const M& moments) {
  using T = typename Row<S>::T;
  const int64_t plane = task.a.plane();
  const int count = static_cast<int>(min(plane, static_cast<int64_t>(kSamples)));
  T* samples = reinterpret_cast<T*>(memory.partial);
  for (int i = static_cast<int>(threadIdx.x); i < channels * count; i += kPoolThreads) {
    const int64_t p = i % count * plane / count;
    samples[i] = widen(task.a.data[n * task.a.stride_n + (channel + i / count) * task.a.stride_c + task.a.offset(p)]);
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += kPoolThreads) {
    const T* from = samples + c * count;
    T total = 0;
    for (int i = 1; i < count; ++i) total += from[i] - from[0];
    moments.shift[c] = task.standardize ? from[0] + total / static_cast<T>(count) : T(0);
  }
}

template <typename S, bool kInShared>
__global__ void __launch_bounds__(kPoolThreads, kInShared ? 2 : 1) pool_kernel(PoolTask<S> task) {
  using T = typename Row<S>::T;
  Carver carver(shared_memory());
  const PoolMemory<S> memory(carver, task.width, task.columns, task.max_cells);
  unsigned char* scratch = task.scratch + blockIdx.x * task.bytes;
  unsigned char* begin = scratch;
  if constexpr (kInShared) begin = carver.take<unsigned char>(task.bytes);
  const Moments<T, T> moments = task.template moments<T>(begin);
  const int64_t channel = blockIdx.x % task.slices * task.width, group = blockIdx.x / task.slices % task.groups;
  const int64_t segment = blockIdx.x / task.slices / task.groups;
  const int64_t first = part_begin(task.a.h, segment, task.segments);
  const int64_t last = part_begin(task.a.h, segment + 1, task.segments);
  const int channels = task.slice_width(channel);
  for (int64_t n = group; n < task.a.n; n += task.groups) {
    for (int64_t i = threadIdx.x; i < task.bytes / 16; i += kPoolThreads) reinterpret_cast<uint4*>(begin)[i] = {};
    sample_shifts(task, memory, n, channel, channels, moments);
    for (int64_t x = 0; x < task.a.w; x += task.columns) {
      pool_tile(task, memory, n, channel, x, first, last, moments);
    }
    __syncthreads();  // all cells have been added
    if (task.segments == 1) finish_image(task, n, group, channel, channels, moments);
    if (task.groups < task.a.n) __syncthreads();  // the moments are no longer used
  }
  if constexpr (kInShared) {
    if (task.segments == 1) return;
    for (int64_t i = threadIdx.x; i < task.bytes / 16; i += kPoolThreads) {
      reinterpret_cast<uint4*>(scratch)[i] = reinterpret_cast<const uint4*>(begin)[i];
    }
  }
}

}  // namespace stylefast
