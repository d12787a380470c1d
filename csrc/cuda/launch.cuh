// SPDX-License-Identifier: Apache-2.0
// Device, stream, shared memory and grid of a kernel. Every launch uses this file.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/Half.h>

// No kernel uses complex numbers. If torch's header for them sees __CUDACC__, it includes Thrust, which is a third of
// all that nvcc parses.
#pragma push_macro("__CUDACC__")
#undef __CUDACC__
#include <torch/headeronly/util/complex.h>
#pragma pop_macro("__CUDACC__")

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/shim_utils.h>

#include "../common/tensor.h"

namespace stylefast {

inline constexpr int kThreads = 256;  // per block, in kernels that assign labels
inline constexpr int kWarps = kThreads / 32;

inline void check(cudaError_t error) { STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error)); }

struct Grid {
  int64_t blocks;      // along x
  int threads;         // per block
  int64_t shared = 0;  // bytes of dynamic shared memory per block
  int64_t rows = 1;    // blocks along y: at most 65535
};

// The device and current stream of a tensor, and launches on them. Nothing waits for the device, so that calls can be
// captured in CUDA graphs.
class Device {
 public:
  explicit Device(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  int64_t processors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  int64_t shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }  // bytes per block

  // Number of blocks of a kernel that run at the same time on the whole device.
  template <typename... Args>
  int64_t resident_blocks(void (*kernel)(Args...), int threads, int64_t shared) const {
    allow_shared(kernel, shared);
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<size_t>(shared)));
    return std::max(1, blocks) * processors();
  }

  // Launches a kernel, or returns if the grid is empty.
  template <typename... Args, typename... Values>
  void launch(void (*kernel)(Args...), const Grid& grid, const Values&... values) const {
    if (grid.blocks == 0 || grid.rows == 0) return;
    STD_TORCH_CHECK(grid.blocks <= INT32_MAX, "a grid of ", grid.blocks, " blocks is too large");
    allow_shared(kernel, grid.shared);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.rows));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared);
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, Args(values)...));
  }

 private:
  int64_t attribute(cudaDeviceAttr name) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, index_));
    return value;
  }

  template <typename... Args>
  static void allow_shared(void (*kernel)(Args...), int64_t shared) {
    if (shared <= 48 << 10) return;  // more needs an opt-in
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  }

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Places arrays one after the other, aligned to 16 bytes, in shared or global memory. If `begin` is nullptr, it only
// computes their size. It does arithmetic on pointers, not on integers, so that the compiler can see which memory an
// array lies in; otherwise it emits generic loads and stores.
class Carver {
 public:
  __host__ __device__ explicit Carver(unsigned char* begin) : begin_(begin) {}

  template <typename T>
  __host__ __device__ T* take(int64_t size) {
    T* array = reinterpret_cast<T*>(begin_ + bytes_);
    bytes_ += round_up(size * static_cast<int64_t>(sizeof(T)), 16);
    return array;
  }

  __host__ __device__ int64_t bytes() const { return bytes_; }

 private:
  unsigned char* begin_;
  int64_t bytes_ = 0;
};

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return shared_bytes;
}

}  // namespace stylefast
