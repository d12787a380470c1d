// SPDX-License-Identifier: Apache-2.0
// Compiles the file STYLEFAST_KERNEL once per instruction set. STYLEFAST_PICK chooses the version to call at run time.
//
// A kernel file is plain C++ over the vectors of simd.h, in namespace stylefast::STYLEFAST_ISA. It includes no system
// header: this file includes them before it switches instruction sets. Otherwise an inline function of the standard
// library could be compiled with instructions that the processor lacks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "tasks.h"

namespace stylefast {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The instruction set in use: the one that the environment variable STYLEFAST_ISA names, else the best one that the
// processor has.
Isa isa();

}  // namespace stylefast

#if defined(__x86_64__) && defined(__GNUC__) && !defined(STYLEFAST_PORTABLE_ONLY)
#include <immintrin.h>
#define STYLEFAST_X86 1

#define STYLEFAST_ISA avx512
#define STYLEFAST_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#include STYLEFAST_KERNEL
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef STYLEFAST_ISA
#undef STYLEFAST_BYTES
#undef STYLEFAST_SIMD

#define STYLEFAST_ISA avx2
#define STYLEFAST_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#include STYLEFAST_KERNEL
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef STYLEFAST_ISA
#undef STYLEFAST_BYTES
#undef STYLEFAST_SIMD
#endif

#define STYLEFAST_ISA portable
#define STYLEFAST_BYTES 16
#include STYLEFAST_KERNEL
#undef STYLEFAST_ISA
#undef STYLEFAST_BYTES
#undef STYLEFAST_SIMD

// Address of a function in the namespace of the instruction set in use, for example STYLEFAST_PICK(kernel<float>).
#if defined(STYLEFAST_X86)
#define STYLEFAST_PICK(...)                                               \
  (::stylefast::isa() == ::stylefast::Isa::kAvx512 ? &avx512::__VA_ARGS__ \
   : ::stylefast::isa() == ::stylefast::Isa::kAvx2 ? &avx2::__VA_ARGS__   \
                                                   : &portable::__VA_ARGS__)
#else
#define STYLEFAST_PICK(...) (&portable::__VA_ARGS__)
#endif
