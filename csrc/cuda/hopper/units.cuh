// SPDX-License-Identifier: Apache-2.0
// Units that Hopper introduced, behind small functions: bulk copies of tensor boxes (TMA), barriers in shared memory
// that count arrivals and bytes (mbarrier), and matrix products of warp groups (WGMMA). The instructions need sm_90a.
// For the tests, tests/kernels/on_cpu/emulated_units.h implements the same functions on a CPU.
#pragma once

#include <cuda.h>

#include "../tile.cuh"

// Whether this pass of the compiler can use the units.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define STYLEFAST_HOPPER_UNITS
#endif

#ifndef __CUDACC__
#include <emulated_units.h>
#else

namespace stylefast::hopper {

__device__ inline unsigned char* aligned_shared_memory() {
  extern __shared__ __align__(1024) unsigned char aligned_shared_bytes[];
  return aligned_shared_bytes;
}

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A barrier in shared memory. A phase ends once `count` threads have arrived and all expected bytes have been written.
// Phases are numbered from 0.
struct Barrier {
  uint64_t state;

  __device__ void start(uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count) : "memory");
  }

  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }

  // Arrives, and makes the current phase expect bytes from copies.
  __device__ void arrive_and_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }

  // Waits until a phase has ended whose number has this parity. The phase before phase 0 has parity 1.
  __device__ void wait(uint32_t parity) {
    asm volatile(
        "{.reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;}\n" ::"r"(shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

// Makes started barriers visible to copies.
__device__ inline void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Makes this thread's earlier writes to shared memory visible to matrix products and copies that start after the next
// barrier of the threads.
__device__ inline void fence_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Waits until `threads` threads are at the barrier `id`.
__device__ inline void meet(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Like meet(). Returns whether `condition` holds for any of the threads.
__device__ inline bool meet_any(int id, int threads, bool condition) {
  int any;
  asm volatile(
      "{.reg .pred p, q; setp.ne.b32 p, %3, 0;\n"
      "bar.red.or.pred q, %1, %2, p;\n"
      "selp.s32 %0, 1, 0, q;}\n"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(static_cast<int>(condition))
      : "memory");
  return any != 0;
}

// Starts to copy the box at (x, y, z) of a tensor to shared memory. `barrier` counts the bytes.
__device__ inline void load_box(unsigned char* to, const CUtensorMap& map, Barrier& barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// Must precede the first product after other instructions have written `sum` or the operands.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until the products of all groups have ended. A group reaches from one end_products() to the next.
__device__ inline void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// The register lists of the two products. They are macros because the name of the element type must be a literal.
// clang-format off
#define STYLEFAST_MULTIPLY_64(type)                                                               \
  asm volatile(                                                                                   \
      "{.reg .pred p; setp.ne.b32 p, %34, 0;\n"                                                   \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " "                             \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "    \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                        \
      "%32, %33, p, 1, 1, %35, %36;}\n"                                                           \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]),       \
        "+f"(sum[6]), "+f"(sum[7]), "+f"(sum[8]), "+f"(sum[9]), "+f"(sum[10]), "+f"(sum[11]),     \
        "+f"(sum[12]), "+f"(sum[13]), "+f"(sum[14]), "+f"(sum[15]), "+f"(sum[16]), "+f"(sum[17]), \
        "+f"(sum[18]), "+f"(sum[19]), "+f"(sum[20]), "+f"(sum[21]), "+f"(sum[22]), "+f"(sum[23]), \
        "+f"(sum[24]), "+f"(sum[25]), "+f"(sum[26]), "+f"(sum[27]), "+f"(sum[28]), "+f"(sum[29]), \
        "+f"(sum[30]), "+f"(sum[31])                                                              \
      : "l"(a), "l"(b), "r"(accumulate), "n"(kTransposeA), "n"(kTransposeB))
#define STYLEFAST_MULTIPLY_96(type)                                                               \
  asm volatile(                                                                                   \
      "{.reg .pred p; setp.ne.b32 p, %50, 0;\n"                                                   \
      "wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type " "                             \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "    \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "     \
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "                             \
      "%48, %49, p, 1, 1, %51, %52;}\n"                                                           \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]),       \
        "+f"(sum[6]), "+f"(sum[7]), "+f"(sum[8]), "+f"(sum[9]), "+f"(sum[10]), "+f"(sum[11]),     \
        "+f"(sum[12]), "+f"(sum[13]), "+f"(sum[14]), "+f"(sum[15]), "+f"(sum[16]), "+f"(sum[17]), \
        "+f"(sum[18]), "+f"(sum[19]), "+f"(sum[20]), "+f"(sum[21]), "+f"(sum[22]), "+f"(sum[23]), \
        "+f"(sum[24]), "+f"(sum[25]), "+f"(sum[26]), "+f"(sum[27]), "+f"(sum[28]), "+f"(sum[29]), \
        "+f"(sum[30]), "+f"(sum[31]), "+f"(sum[32]), "+f"(sum[33]), "+f"(sum[34]), "+f"(sum[35]), \
        "+f"(sum[36]), "+f"(sum[37]), "+f"(sum[38]), "+f"(sum[39]), "+f"(sum[40]), "+f"(sum[41]), \
        "+f"(sum[42]), "+f"(sum[43]), "+f"(sum[44]), "+f"(sum[45]), "+f"(sum[46]), "+f"(sum[47])  \
      : "l"(a), "l"(b), "r"(accumulate), "n"(kTransposeA), "n"(kTransposeB))
// clang-format on

// Starts sum[m, n] += sum over k of a[m, k] b[n, k] (or sum[m, n] = ... unless `accumulate`), with m < 64, k < 16, and
// n < 2 size(sum), for the 128 threads of a warp group. `a` and `b` describe matrices in shared memory (layout.cuh). k
// is their contiguous dimension, or m and n if they are transposed. Thread 32 w + 4 g + t holds, for every j,
//   sum[4 j + 2 r + e]: m = 16 w + g + 8 r, n = 8 j + 2 t + e, with r, e < 2
template <typename S, int kTransposeA, int kTransposeB>
__device__ void multiply(float (&sum)[32], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<S, half>) {
    STYLEFAST_MULTIPLY_64("f16");
  } else {
    STYLEFAST_MULTIPLY_64("bf16");
  }
}

template <typename S, int kTransposeA, int kTransposeB>
__device__ void multiply(float (&sum)[48], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<S, half>) {
    STYLEFAST_MULTIPLY_96("f16");
  } else {
    STYLEFAST_MULTIPLY_96("bf16");
  }
}

#undef STYLEFAST_MULTIPLY_64
#undef STYLEFAST_MULTIPLY_96

}  // namespace stylefast::hopper

#endif
