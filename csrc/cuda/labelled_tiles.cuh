// SPDX-License-Identifier: Apache-2.0
// Tiles of positions with one label each, in shared memory: copied asynchronously and sorted by label (labelled.cuh).
#pragma once

#include "async.cuh"
#include "moments.cuh"

namespace stylefast {

inline constexpr int kLabelledThreads = 64;
inline constexpr int kSampledTiles = 16;  // in planes of at most so many tiles, the first tile gives the shift

// A position of a sorted tile: the byte offset of its element in a row of the tile, and the index of its label's first
// element in the moments.
struct Labelled {
  int32_t offset, first;
};

// Shared memory of a block, except for the moments.
template <typename S>
struct LabelledMemory {
  using R = Row<S>;
  static constexpr int kCopied = 8;                                              // bytes per asynchronous copy
  static constexpr int kPitch = R::kWords + kCopied / sizeof(typename R::Word);  // words from one row to the next

  __host__ __device__ LabelledMemory(Carver& carver, int width)
      : tile(carver.take<typename R::Word>(2 * width * kPitch)),
        key(carver.take<uint32_t>(2 * R::kPixels)),
        sorted(carver.take<Labelled>(2 * R::kPixels)),
        tile_size(width * kPitch) {}

  __device__ typename R::Word* tile_of(int step) const { return tile + step % 2 * tile_size; }
  __device__ uint32_t* keys_of(int step) const { return key + step % 2 * R::kPixels; }
  __device__ Labelled* sorted_of(int step) const { return sorted + step % 2 * R::kPixels; }

  typename R::Word* tile;  // [2, width, kPitch]
  uint32_t* key;           // [2, kPixels]: row of the moments * kPixels + position
  Labelled* sorted;        // [2, kPixels]
  int tile_size;
};

// The tiles of a block in the order in which it adds them.
template <typename S>
struct TileWalk {
  int64_t n, offset;      // image of the tile; offset of its first position in a tensor
  int64_t groups, next;   // from one image of the block to the next; from the end of a segment to the next image's
  int tile, first, last;  // tile; first and last tile of the segment

  // Image n begins at n * image_stride.
  __device__ TileWalk(int64_t n, int64_t groups, int first, int last, int64_t image_stride)
      : n(n),
        offset(n * image_stride + first * static_cast<int64_t>(Row<S>::kPixels)),
        groups(groups),
        next(groups * image_stride - (last - first) * static_cast<int64_t>(Row<S>::kPixels)),
        tile(first),
        first(first),
        last(last) {}

  __device__ void advance() {
    offset += Row<S>::kPixels;
    if (++tile < last) return;
    tile = first, n += groups, offset += next;
  }
};

// Key of this thread's position of a tile: row of the moments * kPixels + position.
template <typename S>
__device__ uint32_t key_of_label(const MomentsTask<S>& task, const int32_t* labels, const TileWalk<S>& walk) {
  constexpr int kPixels = Row<S>::kPixels;
  const int i = static_cast<int>(threadIdx.x), clusters = static_cast<int>(task.clusters);
  int32_t row = clusters + 1;
  if (i < kPixels && walk.n < task.a.n && walk.tile * static_cast<int64_t>(kPixels) + i < task.a.plane()) {
    const int32_t label = labels[walk.offset + i];
    row = label >= 0 && label < clusters ? label : clusters;
  }
  return static_cast<uint32_t>(row * kPixels + i);
}

// Sorts the positions of a tile by label; positions of equal label keep their order. A thread finds the rank of its
// position by counting the smaller keys.
template <typename S>
__device__ void sort_tile(const LabelledMemory<S>& memory, int step, int width) {
  constexpr int kPixels = Row<S>::kPixels;
  if (threadIdx.x >= kPixels) return;
  const uint32_t *keys = memory.keys_of(step), key = keys[threadIdx.x];
  int rank = 0;
#pragma unroll 4
  for (int i = 0; i < kPixels; i += 4) {
    const auto others = *reinterpret_cast<const Vector<uint32_t>*>(keys + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) rank += (others.values[j] - key) >> 31;  // keys are less than 2^30
  }
  memory.sorted_of(step)[rank] = {static_cast<int32_t>(threadIdx.x * sizeof(S)),
                                  static_cast<int32_t>(key / kPixels) * width};
}

// Begins to load channels [channel, channel + channels) of a tile. Rows of 16-byte vectors are copied asynchronously, 8
// bytes at a time: rows that begin at multiples of 16 bytes would have more bank conflicts.
template <typename S>
__device__ void start_loading(const View<S>& a, const TileWalk<S>& walk, int64_t channel, int channels,
                              typename Row<S>::Word* tile) {
  using R = Row<S>;
  constexpr int kPitch = LabelledMemory<S>::kPitch, kCopied = LabelledMemory<S>::kCopied / static_cast<int>(sizeof(S));
  constexpr int kCopies = R::kPixels / kCopied, kStep = kLabelledThreads / kCopies;  // copies per row; rows per pass
  constexpr int kPasses = 8;
  const int64_t first = walk.tile * static_cast<int64_t>(R::kPixels);
  if (a.load != Load::kPlanes || first + R::kPixels > a.plane()) {
    const int padded = static_cast<int>(round_up(channels, 32));
    load_tile<S, kPitch>(a, walk.n, span_of<S>(first), channel, channels, padded, tile);
  } else {
    const int copy = static_cast<int>(threadIdx.x) % kCopies * kCopied;
    int c = static_cast<int>(threadIdx.x) / kCopies;
    const S* from = a.data + walk.offset + (channel + c) * a.stride_c + copy;
    S* to = reinterpret_cast<S*>(tile + c * kPitch) + copy;
    const auto copy_row = [&] {
      copy_async<LabelledMemory<S>::kCopied>(to, from);
      from += kStep * a.stride_c, to += kStep * kPitch * R::kPack, c += kStep;
    };
    while (c + (kPasses - 1) * kStep < channels) {
#pragma unroll
      for (int i = 0; i < kPasses; ++i) copy_row();
    }
    while (c < channels) copy_row();
  }
  commit_copies();
}

}  // namespace stylefast
