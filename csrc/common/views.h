// SPDX-License-Identifier: Apache-2.0
// Plain structs and helpers for kernels. This file includes no torch header.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace stylefast {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

// The type in which a kernel computes for elements of type S.
template <typename S>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

enum class Features { kRaw, kStandardized, kSquared, kRectified };

inline constexpr double kVarianceEpsilon = 1e-5;  // as in torch.nn.functional.instance_norm

template <typename S>
struct Activations {
  const S* data;                                   // [N, C, H, W]
  int64_t n, c, h, w;                              // sizes
  int64_t stride_n, stride_c, stride_h, stride_w;  // in elements

  constexpr int64_t plane() const { return h * w; }
  constexpr int64_t positions() const { return n * h * w; }
  constexpr bool channels_last() const { return stride_c == 1 && c > 1; }
  // Whether all positions of a plane lie stride_w apart, so that its rows form one row.
  constexpr bool rows_join() const { return h == 1 || stride_h == w * stride_w; }
};

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// First item of range `part` when [0, count) is divided into `parts` contiguous ranges of nearly equal length.
constexpr int64_t part_begin(int64_t count, int64_t part, int64_t parts) { return count * part / parts; }

// Uninitialised array, aligned to a cache line of 64 bytes.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(allocate(size)) {}
  operator T*() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  static T* allocate(int64_t size) {
    // + 1, so that an empty array has an address, too.
    void* data = std::aligned_alloc(64, static_cast<size_t>(round_up(size * static_cast<int64_t>(sizeof(T)) + 1, 64)));
    if (data == nullptr) throw std::bad_alloc();
    return static_cast<T*>(data);
  }
  std::unique_ptr<T[], Free> data_;
};

}  // namespace stylefast
