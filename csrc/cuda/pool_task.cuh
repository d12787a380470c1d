// SPDX-License-Identifier: Apache-2.0
// Arguments, shared memory and loads of the kernel that pools activations on the grid of the labels (pooled.cuh).
#pragma once

#include "async.cuh"
#include "moments.cuh"

namespace stylefast {

inline constexpr int kPoolThreads = 256, kPoolStages = 8;  // kPoolStages - 1 rows are in flight
inline constexpr int kPoolRows = 64;                       // rows whose taps shared memory holds
inline constexpr int kSamples = 32;                        // positions per channel that give the shift

// Between which two cells of an axis a position lies, as in torch.nn.functional.interpolate(align_corners=False). Cell
// low has 1 - weight; cell low + 1 has weight, and exists if weight is not zero.
template <typename T>
struct Tap {
  int32_t low;
  T weight;

  __device__ Tap(int64_t i, int64_t cells, double step, bool bilinear) : weight(0) {
    if (bilinear) {
      const double source = max(0.0, (static_cast<double>(i) + 0.5) * step - 0.5);
      low = static_cast<int32_t>(min(static_cast<int64_t>(source), cells - 1));
      if (low + 1 < cells) weight = static_cast<T>(source - low);
    } else {  // in float, as in torch
      low =
          static_cast<int32_t>(min(static_cast<int64_t>(static_cast<float>(i) * static_cast<float>(step)), cells - 1));
    }
  }

  __device__ T of_cell(int32_t cell) const { return cell == low ? 1 - weight : weight; }
};

// A cell of the current row of cells, and the columns of the tile that reach it.
template <typename T>
struct Cell {
  int32_t column, begin, end;  // column of the label grid; columns of the tile
  T weight;                    // of all these columns together
};

template <typename S>
struct PoolTask : MomentsTask<S> {
  LabelGrid grid;
  Load load;      // kPlanes and kChannels: vectors of 16 bytes
  int columns;    // of a tile
  int max_cells;  // cells that the columns of a tile reach
};

// Shared memory of a block, except for the moments.
template <typename S>
struct PoolMemory {
  using T = typename Row<S>::T;
  static constexpr int kVector = Row<S>::kVector;

  __host__ __device__ PoolMemory(Carver& carver, int width, int columns, int max_cells)
      : ring(carver.take<Vector<S>>(kPoolStages * kPoolThreads)),
        partial(carver.take<Sums<T>>(width * columns)),
        pooled(carver.take<Sums<T>>(width * max_cells)),
        column(carver.take<Tap<T>>(columns)),
        row(carver.take<Tap<T>>(kPoolRows)),
        cell(carver.take<Cell<T>>(max_cells)),
        label(carver.take<int32_t>(max_cells)) {}

  Vector<S>* ring;   // [kPoolStages, kPoolThreads]: what each thread has loaded for itself
  Sums<T>* partial;  // [width, columns]: sums of the columns for one row of cells; first the samples
  Sums<T>* pooled;   // [width, max_cells]
  Tap<T>* column;    // [columns]
  Tap<T>* row;       // [kPoolRows]
  Cell<T>* cell;     // [max_cells]
  int32_t* label;    // [max_cells]
};

// The elements of a tile of columns that a thread owns, in the rows that it loads one after the other.
template <typename S>
class PoolVector {
 public:
  static constexpr int kVector = Row<S>::kVector;

  __device__ PoolVector(const PoolTask<S>& task, int64_t n, int64_t channel, int64_t first_column, int64_t row)
      : along_channels(task.load == Load::kChannels),
        c(along_channels ? thread() % (task.width / kVector) * kVector : thread() / (task.columns / kVector)),
        x(along_channels ? thread() / (task.width / kVector) : thread() % (task.columns / kVector) * kVector),
        from_(task.a.data + n * task.a.stride_n + (channel + c) * task.a.stride_c + row * task.a.stride_h +
              (first_column + x) * task.a.stride_w),
        stride_(task.a.stride_h),
        step_(along_channels ? task.a.stride_c : task.a.stride_w) {
    const int64_t channels = task.a.c - channel - c, columns = task.a.w - first_column - x;
    const int64_t size = channels <= 0 || columns <= 0 ? 0 : along_channels ? channels : columns;
    size_ = static_cast<int>(min(size, static_cast<int64_t>(kVector)));
    is_copied_ = task.load != Load::kElements && size_ == kVector;
  }

  // Begins to load the next row. Elements that do not exist become zeros.
  __device__ void start_loading(Vector<S>* to) {
    if (is_copied_) {
      copy_async<16>(to, from_);
    } else {
      Vector<S> vector{};
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        if (i < size_) vector.values[i] = from_[i * step_];
      }
      *to = vector;
    }
    from_ += stride_;
  }

  const bool along_channels;
  const int c, x;  // channel in the slice and column in the tile of the first element

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  const S* from_;
  int64_t stride_, step_;  // from one row to the next; from one element to the next
  int size_;               // elements that exist
  bool is_copied_;
};

}  // namespace stylefast
