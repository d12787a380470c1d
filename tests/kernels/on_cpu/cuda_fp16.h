// SPDX-License-Identifier: Apache-2.0
// Stand-in for CUDA's header.
#pragma once

#include <cstdint>

using __half = _Float16;

inline __half __ushort_as_half(uint16_t bits) { return __builtin_bit_cast(__half, bits); }
inline uint16_t __half_as_ushort(__half x) { return __builtin_bit_cast(uint16_t, x); }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __float2half_rn(float x) { return static_cast<__half>(x); }
