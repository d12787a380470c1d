// SPDX-License-Identifier: Apache-2.0
// Sizes, shared memory and matrix descriptors of the Hopper kernel of lloyd_step.
#pragma once

#include "../score.cuh"
#include "units.cuh"

namespace stylefast::hopper {

inline constexpr int kPositions = 64;      // of a tile
inline constexpr int kBoxChannels = 64;    // of a box
inline constexpr int kMaxBoxes = 8;        // of a tile: up to 512 channels
inline constexpr int kSlots = 16;          // boxes that shared memory holds
inline constexpr int kMaxRows = 32;        // centroids of all restarts together
inline constexpr int kScorePieces = 2;     // of a centroid
inline constexpr int kWeightPieces = 3;    // of a weight
inline constexpr int kGroupThreads = 128;  // of a warp group
inline constexpr int kGroups = 2;          // warp groups that compute
inline constexpr int kConsumers = kGroups * kGroupThreads;
inline constexpr int kBlockThreads = kConsumers + 32;  // and one warp that loads
inline constexpr int kBoxBytes = kBoxChannels * kPositions * 2;
inline constexpr int kPieceBytes = kPositions * kMaxRows * 2;  // one piece of all weights of a tile

// 128 channels of a tile are summed by 16 groups of 8 threads each, per warp group.
inline constexpr int kPartialSquares = kConsumers / 8;
inline constexpr int kSquaresPitch = kPositions + 8;

struct alignas(1024) Shared {
  unsigned char boxes[kSlots][kBoxBytes];         // ring of boxes [64 channels, 64 positions], swizzled by 128 bytes
  unsigned char centroids[kMaxBoxes][kBoxBytes];  // [2 pieces, 32 centroids, 64 channels], swizzled by 128 bytes
  unsigned char weights[kWeightPieces * kPieceBytes];  // [3 pieces, 64 positions, 32 centroids], by 64 bytes
  Vector<float> scores[kGroups][2][kGroupThreads];     // that a warp group sends to the other
  float squares[kPartialSquares][kSquaresPitch];       // partial sums of |x|^2
  uint32_t counts[kMaxRows];                           // positions per centroid
  uint32_t left_out[kConsumers / 32];                  // per warp: bit i is set if the norm of lane i is not finite
  Barrier full[kSlots], empty[kSlots];
};
static_assert(sizeof(Shared) <= 232448, "a block on Hopper has 232,448 bytes of shared memory");

// Descriptor of a matrix in shared memory. A row of `width` bytes is contiguous, and `stride` bytes lie between groups
// of eight rows. If the matrix is transposed and wider than a row, `leading` bytes lie between its blocks of columns.
template <int kWidth>
__device__ uint64_t descriptor(const void* begin, uint32_t stride, uint32_t leading = 16) {
  constexpr uint64_t kSwizzle = kWidth == 128 ? 1 : 2;
  static_assert(kWidth == 128 || kWidth == 64);
  return static_cast<uint64_t>(shared_address(begin) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | kSwizzle << 62;
}

// The descriptor of the same matrix, `bytes` further.
__device__ inline uint64_t advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

// Offset of 16 bytes in a matrix whose rows have 128 or 64 bytes. The vectors of a row are permuted (swizzled), so that
// the same vector of consecutive rows lies in different banks.
template <int kWidth>
__device__ int swizzled(int row, int vector) {
  return kWidth == 128 ? row * 128 + (vector ^ row % 8) * 16 : row * 64 + (vector ^ row / 2 % 4) * 16;
}

// The box of a tile, in the ring of boxes. `tiles` is the number of tiles that the block has loaded before.
struct Slot {
  __device__ Slot(uint32_t tiles, int boxes, int box) {
    const uint32_t item = tiles * static_cast<uint32_t>(boxes) + static_cast<uint32_t>(box);
    index = item % kSlots, parity = item / kSlots % 2;
  }
  uint32_t index, parity;
};

// Splits a weight 1/|x| into 16-bit pieces. With bfloat16, three pieces hold all 24 bits. Weights of float16
// activations lie between 2^-21 and 2^24, which exceeds the range of float16. Therefore every piece has its own factor.
// The first piece leaves out weights below 2^-5, and the last piece is not needed above 2^20. The pieces hold at least
// 22 bits of a weight above 2^-18, and 19 bits of the smallest weights.
template <typename S>
struct WeightPieces {
  static constexpr bool kScaled = std::is_same_v<S, half>;
  __device__ static constexpr float factor(int piece) {
    return !kScaled ? 1.0f : piece == 0 ? 0x1p-9f : piece == 1 ? 0x1p3f : 0x1p20f;
  }

  __device__ explicit WeightPieces(float weight) {
#pragma unroll
    for (int i = 0; i < kWeightPieces; ++i) {
      const float scaled = weight * factor(i);
      const bool left_out = kScaled && (i == 0 ? scaled < 0x1p-14f : fabsf(scaled) > 65504.0f);
      const S piece = narrow<S>(left_out ? 0.0f : scaled);
      bits[i] = piece.bits;
      weight -= widen(piece) / factor(i);
    }
  }

  uint16_t bits[kWeightPieces];
};

}  // namespace stylefast::hopper
