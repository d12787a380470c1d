// SPDX-License-Identifier: Apache-2.0
// The functions of csrc/cuda/hopper/units.cuh for fibers. Copies and matrix products take effect as late as a wait
// allows, or at once; the tests choose (units.cpp). A call that the tests skip has no effect.
#pragma once

#include <type_traits>

#include "cuda.h"
#include "emulated_mma.h"

namespace on_cpu {

// The line of the source that calls a unit.
struct Place {
  const char* file;
  int line;
};

// Matrix product of a thread of a warp group, see multiply().
struct Product {
  float* sum;
  int size;  // of `sum`
  uint64_t a, b;
  bool accumulate, transpose_a, transpose_b, is_half;
};

unsigned char* shared_begin();
void barrier_start(uint64_t& barrier, uint32_t count);
void barrier_arrive(uint64_t& barrier, int64_t bytes);
void barrier_wait(const uint64_t& barrier, uint32_t parity, Place place);
void fence(Place place);
bool meet(int id, int threads, bool condition, Place place);
void load(unsigned char* to, const CUtensorMap& map, uint64_t& barrier, int x, int y, int z);
void begin_products(Place place);
void multiply(const Product& product);
void end_products(Place place);
void wait_for_products(Place place);

}  // namespace on_cpu

namespace stylefast {
struct half;
}

namespace stylefast::hopper {

inline unsigned char* aligned_shared_memory() { return on_cpu::shared_begin(); }

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - on_cpu::shared_begin());
}

struct Barrier {
  uint64_t state;

  void start(uint32_t count) { on_cpu::barrier_start(state, count); }
  void arrive() { on_cpu::barrier_arrive(state, 0); }
  void arrive_and_expect(uint32_t bytes) { on_cpu::barrier_arrive(state, bytes); }
  void wait(uint32_t parity, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    on_cpu::barrier_wait(state, parity, {file, line});
  }
};

inline void fence_barriers() {}

inline void fence_writes(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  on_cpu::fence({file, line});
}

inline void meet(int id, int threads, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  on_cpu::meet(id, threads, false, {file, line});
}

inline bool meet_any(int id, int threads, bool condition, const char* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  return on_cpu::meet(id, threads, condition, {file, line});
}

inline void load_box(unsigned char* to, const CUtensorMap& map, Barrier& barrier, int x, int y, int z) {
  on_cpu::load(to, map, barrier.state, x, y, z);
}

inline void begin_products(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  on_cpu::begin_products({file, line});
}

template <typename S, int kTransposeA, int kTransposeB, int kSize>
void multiply(float (&sum)[kSize], uint64_t a, uint64_t b, int accumulate) {
  on_cpu::multiply({sum, kSize, a, b, accumulate != 0, kTransposeA != 0, kTransposeB != 0, std::is_same_v<S, half>});
}

inline void end_products(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  on_cpu::end_products({file, line});
}

inline void wait_for_products(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  on_cpu::wait_for_products({file, line});
}

}  // namespace stylefast::hopper

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  static_assert(sizeof(T) == 4);
  return __builtin_bit_cast(T, on_cpu::exchange({{__builtin_bit_cast(uint32_t, value)}, {}})[lane].a[0]);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int difference) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ difference);
}

inline unsigned __ballot_sync(unsigned, bool condition) {
  const on_cpu::Operands* lanes = on_cpu::exchange({{condition}, {}});
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= lanes[lane].a[0] << lane;
  return bits;
}

inline unsigned atomicAdd(unsigned* address, unsigned value) { return std::exchange(*address, *address + value); }

inline float __frsqrt_rn(float x) { return static_cast<float>(1 / std::sqrt(static_cast<double>(x))); }
