// SPDX-License-Identifier: Apache-2.0
// Moments of activations whose positions have one label each.
//
// A block walks over the tiles of its images, or of its segment of an image. While it adds one tile, it copies the next
// one to shared memory and sorts the positions of the next one by label. A thread owns a channel: it reads the elements
// of the channel in sorted order, adds a run of equal labels in registers, and adds each run to the moments. The order
// of additions is fixed, so results are bitwise repeatable.
#pragma once

#include "labelled_tiles.cuh"

namespace stylefast {

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

// The channels of a thread lie kLabelledThreads apart.
template <typename S, int kChannels>
struct ChannelSums {
  using T = typename Row<S>::T;
  using Word = typename Row<S>::Word;
  static constexpr int kRow = kLabelledThreads * LabelledMemory<S>::kPitch * Row<S>::kPack;  // elements

  // Clears the moments and chooses the shifts for image n. `row` is the row of the first channel in the first tile.
  __device__ void start_image(const MomentsTask<S>& task, int64_t n, int64_t channel, int channels, const Word* row,
                              const Moments<T, int32_t>& moments) {
    const int64_t plane = task.a.plane();
    const bool small = plane <= kSampledTiles * Row<S>::kPixels && task.segments == 1;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kLabelledThreads;
      if (c >= channels) continue;
      for (int k = 0; k < moments.rows; ++k) moments.sums[k * moments.width + c] = {};
      if (!task.standardize) continue;
      const Word* own = row + i * kLabelledThreads * LabelledMemory<S>::kPitch;
      shift[i] = small ? sampled_mean<S>(own, plane) : sampled_mean(task.a, n, channel + c);
    }
  }

  // Adds a sorted tile. `row` is the row of the first channel, and `moments` its moments.
  __device__ void add_tile(const Labelled* sorted, const Word* row, Sums<T>* moments) const {
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
      } else {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (next[i].first != label) end_run();
          label = next[i].first;
          add(i);
        }
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
      if (tile == first) sums.start_image(task, n, channel, channels, row, moments);
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
