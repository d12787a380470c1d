// SPDX-License-Identifier: Apache-2.0
// What the two warp groups of the Hopper kernel compute per tile: scores, labels and weights, and sums.
#pragma once

#include "layout.cuh"

namespace stylefast::hopper {

enum NamedBarrier { kScoresSent = 1, kWeightsWritten, kBoxesCleared };  // kBoxesCleared + g for warp group g

struct Task {
  int restarts, clusters, boxes;  // B, K, C / 64
  int images, plane, tiles;       // N, H W, and tiles of all planes together
  const uint16_t* pieces;         // [kPieces, columns, C]: centroids / scale
  const float* scale;             // [columns]
  int64_t columns;                // centroids in `pieces`, a multiple of 32
  int32_t* labels;                // [B, N, H, W]
  float* sums;                    // [blocks, B K, C]
  uint32_t* counts;               // [blocks, B K + 1]; the last is the number of tiles with a norm that is not finite

  __host__ __device__ int rows() const { return restarts * clusters; }
  __host__ __device__ int channels() const { return boxes * kBoxChannels; }
  __host__ __device__ int tiles_per_plane() const { return (plane + kPositions - 1) / kPositions; }
};

// A thread of a warp group. The group g computes boxes g, g + 2, ... of every tile.
template <typename S>
class Consumer {
 public:
  __device__ Consumer(const Task& task, Shared& shared) : task_(task), shared_(shared) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) scale_[i] = WeightPieces<S>::kScaled ? task.scale[column(i)] : 1.0f;
  }

  // Adds a tile, the positions from `first` of a plane of image n. `tiles` tiles have been added before.
  __device__ void add(uint32_t tiles, int n, int first) {
    float scores[kColumns];
    score(tiles, scores);
    const float square = norm_square();
    const bool finite = square < INFINITY, counted = finite && square > 0;
    const uint32_t chosen = label(scores, counted, n, first + position());
    write_weights(chosen, counted ? __frsqrt_rn(square) : 0.0f);
    const uint32_t left_out = __ballot_sync(0xFFFFFFFF, !finite);
    if (lane() == 0) shared_.left_out[threadIdx.x / 32] = left_out;
    fence_writes();
    if (meet_any(kWeightsWritten, kConsumers, left_out != 0)) {
      clear_left_out(tiles);
      ++tiles_with_left_out_;
    }
    sum(tiles);
  }

  // Writes the sums and counts of the block. The last barrier of add() follows all counts.
  __device__ void finish() const {
    const int64_t block = blockIdx.x, rows = task_.rows(), thread = threadIdx.x;
    uint32_t* counts = task_.counts + block * (rows + 1);
    if (thread < rows) counts[thread] = shared_.counts[thread];
    if (thread == rows) counts[thread] = tiles_with_left_out_;
#pragma unroll
    for (int i = 0; i < kGroupBoxes; ++i) {
      if (box(i) >= task_.boxes) break;
#pragma unroll
      for (int j = 0; j < 2 * kColumns; ++j) {
        const int k = column(j / 4 * 2 + j % 2), c = box(i) * kBoxChannels + row(j / 2 % 2);
        if (k < rows) task_.sums[(block * rows + k) * task_.channels() + c] = sums_[i][j];
      }
    }
  }

 private:
  static constexpr int kColumns = kMaxRows / 4;            // centroids per thread
  static constexpr int kGroupBoxes = kMaxBoxes / kGroups;  // boxes per warp group
  static constexpr int kStep = 16;                         // summed elements per product
  static constexpr int kQuarter = kPartialSquares / 4;     // partial sums that a lane adds

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int box(int i) const { return group_ + i * kGroups; }
  // The matrix elements that a thread holds (see multiply): two rows, and kColumns columns.
  __device__ static int row(int r) { return thread() / 32 * 16 + lane() / 4 + 8 * r; }
  __device__ static int column(int i) { return i / 2 * 8 + lane() % 4 * 2 + i % 2; }
  // The position that this thread labels together with the other three lanes that hold its scores.
  __device__ int position() const { return row(group_); }

  // Computes the scores of this thread's position and columns. Each warp group computes the scores of its channels for
  // all positions, sends half of them to the other group, and receives the other half.
  __device__ void score(uint32_t tiles, float (&scores)[kColumns]) {
    float products[4 * kColumns] = {}, square[8] = {};
    for (int box = group_; box < task_.boxes; box += kGroups) {
      const Slot slot(tiles, task_.boxes, box);
      shared_.full[slot.index].wait(slot.parity);
      const uint64_t x = descriptor<128>(shared_.boxes[slot.index], 8 * 128);
      const uint64_t centroids = descriptor<128>(shared_.centroids[box], 8 * 128);
      begin_products();
#pragma unroll
      for (int k = 0; k < kBoxChannels; k += kStep) {
        multiply<S, 1, 0>(products, advance(x, k * 128), advance(centroids, k * 2), 1);
      }
      end_products();
      add_squares(shared_.boxes[slot.index], square);
    }
    float* squares = shared_.squares[threadIdx.x / 8] + threadIdx.x % 8 * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares[i] = square[i];
    wait_for_products();
    float both[2][kColumns];
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) {
      both[i / 2 % 2][i / 4 * 2 + i % 2] = products[2 * kColumns + i] + products[i];
    }
    Vector<float> sent[2];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      scores[i] = group_ == 0 ? both[0][i] : both[1][i];
      sent[i / 4].values[i % 4] = group_ == 0 ? both[1][i] : both[0][i];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) shared_.scores[group_][i][thread()] = sent[i];
    meet(kScoresSent, kConsumers);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Vector<float> received = shared_.scores[1 - group_][i][thread()];
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[4 * i + j] = (scores[4 * i + j] + received.values[j]) * scale_[4 * i + j];
    }
  }

  // Adds the squares of 8 positions, for every 16th channel of a box.
  __device__ static void add_squares(const unsigned char* box, float (&square)[8]) {
#pragma unroll
    for (int c = 0; c < kBoxChannels; c += kGroupThreads / 8) {
      const int channel = c + thread() / 8;
      const auto x = *reinterpret_cast<const Vector<uint32_t>*>(box + swizzled<128>(channel, thread() % 8));
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float value = Row<S>::value(x.values[i / 2], i % 2);
        square[i] = fma(value, value, square[i]);
      }
    }
  }

  // Returns |x|^2 of this thread's position. The four lanes of a position add a quarter of the partial sums each.
  __device__ float norm_square() const {
    float square = 0;
#pragma unroll
    for (int i = 0; i < kQuarter; ++i) square += shared_.squares[4 * i + lane() % 4][position()];
    square += __shfl_xor_sync(0xFFFFFFFF, square, 1);
    return square + __shfl_xor_sync(0xFFFFFFFF, square, 2);
  }

  // Writes the labels of position p of image n for all restarts. Returns the centroids to which the position is added,
  // as a set of bits.
  __device__ uint32_t label(const float (&scores)[kColumns], bool counted, int n, int p) {
    uint32_t chosen = 0;
    for (int b = 0; b < task_.restarts; ++b) {
      const int begin = b * task_.clusters, end = begin + task_.clusters;
      float best = -INFINITY;  // as in the reference, the lowest label wins ties and NaN never wins
      int best_row = begin;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int k = column(i);
        if (k >= begin && k < end && scores[i] > best) best = scores[i], best_row = k;
      }
#pragma unroll
      for (int other = 1; other < 4; other *= 2) {
        const float score = __shfl_xor_sync(0xFFFFFFFF, best, other);
        const int k = __shfl_xor_sync(0xFFFFFFFF, best_row, other);
        if (score > best || (score == best && k < best_row)) best = score, best_row = k;
      }
      if (counted) chosen |= 1u << best_row;
      if (lane() % 4 != 0) continue;
      if (p < task_.plane) {
        task_.labels[static_cast<int64_t>(b * task_.images + n) * task_.plane + p] = counted ? best_row - begin : 0;
      }
      if (counted) atomicAdd(&shared_.counts[best_row], 1u);  // sums of integers do not depend on the order
    }
    return chosen;
  }

  // Writes the row of weights of this thread's position, in pieces. A lane writes eight columns.
  __device__ void write_weights(uint32_t chosen, float weight) {
    const uint32_t columns = chosen >> lane() % 4 * 8;
    uint32_t mask[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) mask[i] = (columns >> 2 * i & 1) * 0xFFFF + (columns >> 2 * i & 2) * 0x7FFF8000;
    const WeightPieces<S> pieces(weight);
    const int offset = swizzled<64>(position(), lane() % 4);
#pragma unroll
    for (int i = 0; i < kWeightPieces; ++i) {
      const uint32_t twice = pieces.bits[i] * 0x10001u;
      *reinterpret_cast<Vector<uint32_t>*>(shared_.weights + i * kPieceBytes + offset) = {
          {twice & mask[0], twice & mask[1], twice & mask[2], twice & mask[3]}};
    }
  }

  // Sets the positions to zero whose norm is not finite. Their weight is zero, but zero times infinity is NaN.
  __device__ void clear_left_out(uint32_t tiles) {
    for (int p = 0; p < kPositions; ++p) {
      const int warp = p % 16 / 8 * (kGroupThreads / 32) + p / 16;
      if ((shared_.left_out[warp] >> 4 * (p % 8) & 1) == 0) continue;
      for (int i = thread(); i < kGroupBoxes * kBoxChannels; i += kGroupThreads) {
        if (box(i / kBoxChannels) >= task_.boxes) break;
        const Slot slot(tiles, task_.boxes, box(i / kBoxChannels));
        unsigned char* vector = shared_.boxes[slot.index] + swizzled<128>(i % kBoxChannels, p / 8);
        reinterpret_cast<uint16_t*>(vector)[p % 8] = 0;
      }
    }
    fence_writes();
    meet(kBoxesCleared + group_, kGroupThreads);
  }

  // Adds the weighted positions of a tile to the sums, and releases its boxes. Matrix units truncate their sums.
  // Therefore a chain of products covers only one tile, and chains are added in float32.
  __device__ void sum(uint32_t tiles) {
    const uint64_t weights = descriptor<64>(shared_.weights, 8 * 64, kPieceBytes);
#pragma unroll
    for (int i = 0; i < kGroupBoxes; ++i) {
      if (box(i) >= task_.boxes) break;
      const Slot slot(tiles, task_.boxes, box(i));
      const uint64_t x = descriptor<128>(shared_.boxes[slot.index], 8 * 128);
      float products[kWeightPieces * 2 * kColumns];
      begin_products();
#pragma unroll
      for (int p = 0; p < kPositions; p += kStep) {
        multiply<S, 0, 1>(products, advance(x, p * 2), advance(weights, p * 64), p > 0);
      }
      end_products();
      wait_for_products();
      if (lane() == 0) shared_.empty[slot.index].arrive();
#pragma unroll
      for (int j = 0; j < 2 * kColumns; ++j) {
        float total = products[(kWeightPieces - 1) * 2 * kColumns + j] / WeightPieces<S>::factor(kWeightPieces - 1);
#pragma unroll
        for (int piece = kWeightPieces - 2; piece >= 0; --piece) {  // the smallest piece first
          total = fma(products[piece * 2 * kColumns + j], 1 / WeightPieces<S>::factor(piece), total);
        }
        sums_[i][j] += total;
      }
    }
  }

  const Task& task_;
  Shared& shared_;
  const int group_ = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  float scale_[kColumns];
  float sums_[kGroupBoxes][2 * kColumns] = {};  // channels row(0) and row(1) of every box, and this thread's columns
  uint32_t tiles_with_left_out_ = 0;
};

}  // namespace stylefast::hopper
