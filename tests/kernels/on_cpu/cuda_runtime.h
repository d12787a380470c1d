// SPDX-License-Identifier: Apache-2.0
// Stand-in for CUDA's header. With it, a C++ compiler compiles csrc/cuda for a CPU. Every thread of a block is a fiber
// (fibers.cpp). Blocks run one after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct dim3 {
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned x, y, z;
};
struct uint4 {
  unsigned x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the running fiber

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace on_cpu {

// Runs `kernel`, whose code is at `address`, in every thread of a grid.
void run(const void* address, const cudaLaunchConfig_t& config, const std::function<void()>& kernel);

// Number of blocks that run at the same time on a processor.
int resident_blocks(int threads, size_t shared);

// Waits until all threads of the block, or of the warp, are at the same line.
void meet_block(const char* file, int line);
void meet_warp();

int attribute(cudaDeviceAttr name);

}  // namespace on_cpu

#define __syncthreads() on_cpu::meet_block(__FILE__, __LINE__)

inline const char* cudaGetErrorString(cudaError_t) { return "an invalid value"; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  *value = on_cpu::attribute(name);
  return cudaSuccess;
}

template <typename... Args>
cudaError_t cudaFuncSetAttribute(void (*)(Args...), cudaFuncAttribute, int bytes) {
  // Launchers choose sizes by the limit that a test sets. Every GPU from Ampere on has 99 KiB.
  constexpr int kLeast = 99 << 10;
  const int limit = std::max(kLeast, on_cpu::attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  return bytes <= limit ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Args>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Args...), int threads, size_t shared) {
  *blocks = on_cpu::resident_blocks(threads, shared);
  return cudaSuccess;
}

template <typename... Args, typename... Values>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Args...), const Values&... values) {
  on_cpu::run(reinterpret_cast<const void*>(kernel), *config, [&] { kernel(values...); });
  return cudaSuccess;
}

// Inlined without optimisation, too: the library that counts calls them in its innermost loops.
[[gnu::always_inline]] inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
[[gnu::always_inline]] inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }

using std::max;
using std::min;
using std::sqrt;

inline float __uint_as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }

// Byte i of the result is byte (selector >> 4 i) & 7 of the eight bytes of x (low) and y (high).
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
}

inline void __stcs(uint4* to, uint4 value) { *to = value; }

inline int atomicAdd(int* to, int value) {
  const int before = *to;
  *to += value;
  return before;
}
