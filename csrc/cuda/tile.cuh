// SPDX-License-Identifier: Apache-2.0
// Tiles of activations in shared memory, [channels, positions]. A row holds 128 bytes of positions of one channel, and
// one word of padding. Therefore 32 lanes access 32 different banks when they read 32 words of one row, or the same
// position of 32 rows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "launch.cuh"

namespace stylefast {

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline float widen(bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

template <typename S>
__device__ S narrow(typename Compute<S>::type x) {
  if constexpr (std::is_same_v<S, half>) {
    return {__half_as_ushort(__float2half_rn(x))};
  } else if constexpr (std::is_same_v<S, bfloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  } else {
    return x;
  }
}

// Elements that are loaded or stored at once, by default 16 bytes of them.
template <typename E, int kSize = 16 / sizeof(E)>
struct alignas(16) Vector {
  E values[kSize];
};

// Layout of a row of a tile with elements of type S. Two 16-bit elements share a word.
template <typename S>
struct Row {
  using T = typename Compute<S>::type;
  using Word = std::conditional_t<sizeof(S) == 2, uint32_t, S>;
  static constexpr int kPack = sizeof(Word) / sizeof(S);  // positions per word
  static constexpr int kPixels = 128 / sizeof(S);         // positions per row
  static constexpr int kWords = kPixels / kPack;
  static constexpr int kPitch = kWords + 1;       // words from one row to the next
  static constexpr int kVector = 16 / sizeof(S);  // elements in 16 bytes

  __device__ static T value(Word word, int i) {
    if constexpr (std::is_same_v<S, bfloat16>) return __uint_as_float(word >> 16 * i << 16);
    if constexpr (std::is_same_v<S, half>) return widen(S{static_cast<uint16_t>(word >> 16 * i)});
    if constexpr (kPack == 1) return word;
  }

  __device__ static T pixel(const Word* row, int p) { return value(row[p / kPack], p % kPack); }
};

enum class Load { kPlanes, kChannels, kElements };  // per load: positions or channels of 16 bytes, or one element

// Activations, and the kind of loads with which they are read.
template <typename S>
struct View : Activations<S> {
  Load load;

  // Offset of position p from the beginning of its plane.
  __device__ int64_t offset(int64_t p) const {
    return this->rows_join() ? p * this->stride_w : p / this->w * this->stride_h + p % this->w * this->stride_w;
  }
};

// Chooses the widest loads that the strides and the alignment allow.
template <typename S>
View<S> view(const Tensor& activations) {
  const Activations<S> a = activations_view<S>(activations);
  const auto aligned = [](int64_t size, int64_t stride) { return size == 1 || stride % Row<S>::kVector == 0; };
  Load load = Load::kElements;
  if (reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && aligned(a.n, a.stride_n)) {
    if (a.stride_w == 1 && a.rows_join() && aligned(a.c, a.stride_c)) load = Load::kPlanes;
    if (a.channels_last() && aligned(a.h, a.stride_h) && aligned(a.w, a.stride_w)) load = Load::kChannels;
  }
  return {a, load};
}

// The positions of the plane that a row of a tile holds: vectors of kVector positions that begin `spread` positions
// apart. If spread is kVector, these are the positions [first, first + kPixels). A larger spread samples the plane.
struct Span {
  int64_t first, spread;

  template <typename S>
  __device__ int64_t position(int i) const {
    return first + i / Row<S>::kVector * spread + i % Row<S>::kVector;
  }
};

template <typename S>
__device__ Span span_of(int64_t first) {
  return {first, Row<S>::kVector};
}

// kPixels positions spread over the plane, or all positions of a small plane.
template <typename S>
__device__ Span sample_of(int64_t plane) {
  const int64_t vectors = plane / Row<S>::kPixels;  // vectors from one sampled vector to the next
  return {0, vectors > 1 ? vectors * Row<S>::kVector : Row<S>::kVector};
}

// Neighbouring lanes load neighbouring vectors of positions of a channel.
template <typename S, int kPitch>
__device__ void load_planes(const View<S>& a, const S* from, Span span, int rows, int padded,
                            typename Row<S>::Word* tile) {
  using R = Row<S>;
  constexpr int kVectors = R::kPixels / R::kVector, kAhead = 4;  // loads in flight per thread
  const int64_t plane = a.plane();
  const int size = padded * kVectors, threads = static_cast<int>(blockDim.x);
  for (int begin = static_cast<int>(threadIdx.x); begin < size; begin += kAhead * threads) {
    Vector<S> vector[kAhead]{};
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = begin + j * threads;
      const int64_t p = span.first + i % kVectors * span.spread;
      if (i / kVectors >= rows) continue;
      const S* address = from + i / kVectors * a.stride_c + p;
      if (p + R::kVector <= plane) {
        vector[j] = *reinterpret_cast<const Vector<S>*>(address);
      } else {
#pragma unroll
        for (int e = 0; e < R::kVector; ++e) {
          if (p + e < plane) vector[j].values[e] = address[e];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = begin + j * threads;
      if (i >= size) continue;
      const auto words = *reinterpret_cast<const Vector<typename R::Word>*>(&vector[j]);
      typename R::Word* to = tile + i / kVectors * kPitch + i % kVectors * (R::kWords / kVectors);
#pragma unroll
      for (int e = 0; e < R::kWords / kVectors; ++e) to[e] = words.values[e];
    }
  }
}

// Neighbouring lanes load neighbouring positions, kChannels channels of each.
template <typename S, int kPitch, int kChannels>
__device__ void load_channels(const View<S>& a, const S* from, Span span, int rows, int padded,
                              typename Row<S>::Word* tile) {
  using R = Row<S>;
  const int i = static_cast<int>(threadIdx.x) % R::kPixels, step = static_cast<int>(blockDim.x) / R::kPixels;
  const int64_t p = span.position<S>(i);
  const bool inside = p < a.plane();
  from += inside ? a.offset(p) : 0;
  S* to = reinterpret_cast<S*>(tile) + i;
#pragma unroll 4
  for (int c = static_cast<int>(threadIdx.x) / R::kPixels * kChannels; c < padded; c += step * kChannels) {
    Vector<S, kChannels> vector{};
    if (inside && c + kChannels <= rows) {
      if constexpr (kChannels == 1) {
        vector.values[0] = from[c * a.stride_c];
      } else {
        vector = *reinterpret_cast<const Vector<S>*>(from + c);
      }
    } else if (inside) {
#pragma unroll
      for (int e = 0; e < kChannels; ++e) {
        if (c + e < rows) vector.values[e] = from[c + e];
      }
    }
#pragma unroll
    for (int e = 0; e < kChannels; ++e) to[(c + e) * kPitch * R::kPack] = vector.values[e];
  }
}

// Loads channels [channel, channel + rows) of a span of image n. Rows up to `padded`, a multiple of 32, and positions
// past the end of the plane become zeros. kPitch is the number of words from one row to the next. `channel` must be a
// multiple of 32, and the number of threads one of 64.
template <typename S, int kPitch = Row<S>::kPitch>
__device__ void load_tile(const View<S>& a, int64_t n, Span span, int64_t channel, int rows, int padded,
                          typename Row<S>::Word* tile) {
  const S* from = a.data + n * a.stride_n + channel * a.stride_c;
  if (a.load == Load::kPlanes) {
    load_planes<S, kPitch>(a, from, span, rows, padded, tile);
  } else if (a.load == Load::kChannels) {
    load_channels<S, kPitch, Row<S>::kVector>(a, from, span, rows, padded, tile);
  } else {
    load_channels<S, kPitch, 1>(a, from, span, rows, padded, tile);
  }
}

}  // namespace stylefast
