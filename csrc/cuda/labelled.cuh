// SPDX-License-Identifier: Apache-2.0
// Moments of activations whose positions have one label each.
//
// A block walks over the tiles of its images, or of its segment of an image. While it adds one tile, it copies the next
// one to shared memory and sorts the positions of the next one by label. A thread owns a channel: it reads the elements
// of the channel in sorted order, adds a run of equal labels in registers, and adds each run to the moments. The order
// of additions is fixed, so results are bitwise repeatable.
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

// The channels of a thread lie kLabelledThreads apart.
template <typename S, int kChannels>
struct ChannelSums {
  using T = typename Row<S>::T;
  static constexpr int kRow = kLabelledThreads * LabelledMemory<S>::kPitch * Row<S>::kPack;  // elements

  // Adds a sorted tile. `row` is the row of the first channel, and `moments` its moments.
  __device__ void add_tile(const Labelled* sorted, const typename Row<S>::Word* row, Sums<T>* moments) const {
    constexpr int kAhead = 8;  // positions loaded at a time
    const auto* bytes = reinterpret_cast<const unsigned char*>(row);
    int32_t label = sorted[0].first;
    Sums<T> run[kChannels]{};
    const auto end_run = [&] {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        Sums<T> sums = moments[label + c * kLabelledThreads];
        sums.add(run[c]);
        moments[label + c * kLabelledThreads] = sums;
        run[c] = {};
      }
    };
#pragma unroll 1
    for (const Labelled* end = sorted + Row<S>::kPixels; sorted < end; sorted += kAhead) {
      Labelled next[kAhead];
      S x[kAhead][kChannels];
#pragma unroll
      for (int i = 0; i < kAhead; i += 2) {
        *reinterpret_cast<Vector<Labelled>*>(next + i) = *reinterpret_cast<const Vector<Labelled>*>(sorted + i);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const S* from = reinterpret_cast<const S*>(bytes + next[i].offset);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) x[i][c] = from[c * kRow];
      }
      const auto add = [&](int i) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          const T d = widen(x[i][c]) - shift[c];
          run[c].sum += d;
          run[c].square = fma(d, d, run[c].square);
        }
      };
      if (next[kAhead - 1].first == label) {  // no run ends here
#pragma unroll
        for (int i = 0; i < kAhead; ++i) add(i);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (next[i].first != label) end_run();
        label = next[i].first;
        add(i);
      }
    }
    end_run();
  }

  T shift[kChannels];
};

// Counts the positions of every label in the tiles of a segment of image n.
template <typename S>
__device__ void count_labels(const MomentsTask<S>& task, const int32_t* labels, int64_t n, const TileWalk<S>& walk,
                             int32_t* counts) {
  const int64_t plane = task.a.plane();
  const int64_t begin = walk.first * static_cast<int64_t>(Row<S>::kPixels);
  const int64_t end = min(walk.last * static_cast<int64_t>(Row<S>::kPixels), plane);
  for (int k = static_cast<int>(threadIdx.x); k < task.rows; k += kLabelledThreads) counts[k] = 0;
  __syncthreads();
  labels += n * plane;
#pragma unroll 4
  for (int64_t p = begin + threadIdx.x; p < end; p += kLabelledThreads) {
    const int32_t label = labels[p];
    if (label >= 0 && label < task.clusters) atomicAdd(counts + label, 1);  // integers: any order gives the same sum
  }
  __syncthreads();
}

// Mean of a channel at kPixels positions: in some rows of the plane, eight each.
template <typename S>
__device__ typename Row<S>::T sampled_mean(const View<S>& a, int64_t n, int64_t channel) {
  using T = typename Row<S>::T;
  constexpr int kColumns = 8, kRows = Row<S>::kPixels / kColumns;
  const S* from = a.data + n * a.stride_n + channel * a.stride_c;
  const T first = widen(from[0]);
  T total = 0;
#pragma unroll 1
  for (int y = 0; y < kRows; ++y) {
    const S* row = from + a.h * y / kRows * a.stride_h;
#pragma unroll
    for (int x = 0; x < kColumns; ++x) total += widen(row[a.w * x / kColumns * a.stride_w]) - first;
  }
  return first + total / static_cast<T>(kRows * kColumns);
}

// If there are several segments, their moments are copied to scratch.
template <typename S, bool kInShared, int kChannels>
__global__ void __launch_bounds__(kLabelledThreads, sizeof(S) == 8 ? 4 : 8)
    moments_kernel(MomentsTask<S> task, const int32_t* labels) {
  using R = Row<S>;
  using T = typename R::T;
  Carver carver(shared_memory());
  const LabelledMemory<S> memory(carver, task.width);
  unsigned char* scratch = task.scratch + blockIdx.x * task.bytes;
  unsigned char* begin = scratch;
  if constexpr (kInShared) begin = carver.take<unsigned char>(task.bytes);
  const Moments<T, int32_t> moments = task.template moments<int32_t>(begin);

  const int64_t channel = blockIdx.x % task.slices * task.width, group = blockIdx.x / task.slices % task.groups;
  const int64_t segment = blockIdx.x / task.slices / task.groups;
  const int64_t tiles = (task.a.plane() + R::kPixels - 1) / R::kPixels;
  const int first = static_cast<int>(part_begin(tiles, segment, task.segments));
  const int last = static_cast<int>(part_begin(tiles, segment + 1, task.segments));
  const int channels = task.slice_width(channel), thread = static_cast<int>(threadIdx.x);
  TileWalk<S> loaded(group, task.groups, first, last, task.a.stride_n);
  TileWalk<S> labelled(group, task.groups, first, last, task.a.plane());
  const auto set_key = [&](int step, uint32_t key) {
    if (thread < R::kPixels) memory.keys_of(step)[thread] = key;
  };
  const auto next_key = [&] {
    const uint32_t key = key_of_label(task, labels, labelled);
    labelled.advance();
    return key;
  };
  start_loading(task.a, loaded, channel, channels, memory.tile_of(0));
  set_key(0, next_key());
  __syncthreads();
  sort_tile(memory, 0, task.width);
  set_key(1, next_key());
  uint32_t key = next_key();
  ChannelSums<S, kChannels> sums{};
  int step = 0;
  for (int64_t n = group; n < task.a.n; n += task.groups) {
    for (int tile = first; tile < last; ++tile, ++step) {
      wait_for_copies<0>();
      __syncthreads();  // the tile of this step has been loaded and sorted, and that of the last step is no longer used
      loaded.advance();
      if (loaded.n < task.a.n) {
        start_loading(task.a, loaded, channel, channels, memory.tile_of(step + 1));
        sort_tile(memory, step + 1, task.width);
      }
      set_key(step + 2, key);
      key = next_key();
      const typename R::Word* row = memory.tile_of(step) + thread * LabelledMemory<S>::kPitch;
      if (tile == first) {
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          const int c = thread + i * kLabelledThreads;
          if (c >= channels) continue;
          for (int k = 0; k < moments.rows; ++k) moments.sums[k * moments.width + c] = {};
          if (!task.standardize) continue;
          sums.shift[i] = tiles <= kSampledTiles && task.segments == 1
                              ? sampled_mean<S>(row + i * kLabelledThreads * LabelledMemory<S>::kPitch, task.a.plane())
                              : sampled_mean(task.a, n, channel + c);
        }
      }
      if (thread < channels) sums.add_tile(memory.sorted_of(step), row, moments.sums + thread);
    }
    count_labels(task, labels, n, loaded, moments.counts);
    if (task.segments == 1) finish_image(task, n, group, channel, channels, moments);
  }
  if constexpr (kInShared) {
    if (task.segments == 1) return;
    for (int64_t i = thread; i < task.bytes / 16; i += kLabelledThreads) {
      reinterpret_cast<uint4*>(scratch)[i] = reinterpret_cast<const uint4*>(begin)[i];
    }
  }
}

}  // namespace stylefast
