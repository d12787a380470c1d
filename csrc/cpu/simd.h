// SPDX-License-Identifier: Apache-2.0
// Vectors of one instruction set. isa.h includes this file once per instruction set: it undefines the guard in between.
//
// load() and store() convert between the element type and the computing type T, float or double. The lanes of a vector
// hold either positions or channels.
#ifndef STYLEFAST_SIMD
#define STYLEFAST_SIMD

namespace stylefast {
namespace STYLEFAST_ISA {

#define STYLEFAST_INLINE inline __attribute__((always_inline))

template <typename T>
inline constexpr int kLanes = STYLEFAST_BYTES / static_cast<int>(sizeof(T));

template <typename T, int kBytes = STYLEFAST_BYTES>
struct VecOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename T>
using Vec = typename VecOf<T>::type;

template <typename T>
using IndexOf = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;  // integer as wide as T, for labels

template <typename T>
STYLEFAST_INLINE Vec<T> splat(T value) {
  return Vec<T>{} + value;
}

template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
STYLEFAST_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
STYLEFAST_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// to[i] += v[i], for every lane i.
template <typename T>
STYLEFAST_INLINE void add_to(double* to, Vec<T> v) {
  using Doubles = typename VecOf<double, kLanes<T> * sizeof(double)>::type;
  Doubles total;
  std::memcpy(&total, to, sizeof total);
  total += __builtin_convertvector(v, Doubles);
  std::memcpy(to, &total, sizeof total);
}

template <typename T>
STYLEFAST_INLINE T lane_sum(Vec<T> v) {
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

template <typename To, typename From>
STYLEFAST_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Loads and zero-extends 16-bit integers. GCC 12 compiles __builtin_convertvector to five instructions instead of one.
STYLEFAST_INLINE Vec<uint32_t> widen(const uint16_t* p) {
#if STYLEFAST_BYTES == 64
  return bit_cast<Vec<uint32_t>>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif STYLEFAST_BYTES == 32
  return bit_cast<Vec<uint32_t>>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  typename VecOf<uint16_t, STYLEFAST_BYTES / 2>::type bits;
  std::memcpy(&bits, p, sizeof bits);
  return __builtin_convertvector(bits, Vec<uint32_t>);
#endif
}

STYLEFAST_INLINE Vec<float> load(const bfloat16* p) { return bit_cast<Vec<float>>(widen(&p->bits) << 16); }

STYLEFAST_INLINE Vec<float> load(const half* p) {
#if STYLEFAST_BYTES == 64
  return bit_cast<Vec<float>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif STYLEFAST_BYTES == 32
  return bit_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  const Vec<uint32_t> wide = widen(&p->bits);
  const Vec<uint32_t> magnitude = (wide & 0x7fffu) << 13;  // exponent and mantissa where a float has them
  // 2^112 corrects the exponent's bias, 127 instead of 15.
  const Vec<uint32_t> value = bit_cast<Vec<uint32_t>>(bit_cast<Vec<float>>(magnitude) * 0x1p112f);
  const Vec<uint32_t> special = bit_cast<Vec<uint32_t>>(magnitude >= (0x7c00u << 13)) & 0x7f800000u;  // Inf, NaN
  return bit_cast<Vec<float>>(value | special | (wide & 0x8000u) << 16);
#endif
}

// Converts one element exactly as load() does.
template <typename S>
STYLEFAST_INLINE typename Compute<S>::type load_one(const S* p) {
  if constexpr (sizeof(S) == 2) {
    S lanes[kLanes<float>] = {*p};
    return load(lanes)[0];
  } else {
    return *p;
  }
}

// Loads `width` elements that lie `stride` apart. The remaining lanes are zero.
template <typename S, typename T = typename Compute<S>::type>
STYLEFAST_INLINE Vec<T> gather(const S* from, int64_t stride, int64_t width) {
  if (stride == 1 && width == kLanes<T>) return load(from);
  T lanes[kLanes<T>] = {};
  for (int64_t i = 0; i < width; ++i) lanes[i] = load_one(from + i * stride);
  return load(lanes);
}

// Stores the first `width` elements of v.
template <typename T>
STYLEFAST_INLINE void store_some(T* p, Vec<T> v, int64_t width) {
  if (width == kLanes<T>) return store(p, v);
  std::memcpy(p, &v, sizeof(T) * static_cast<size_t>(width));
}

STYLEFAST_INLINE void store(bfloat16* p, Vec<float> v) {
  const Vec<uint32_t> bits = bit_cast<Vec<uint32_t>>(v);
  const Vec<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const Vec<uint32_t> is_nan = bit_cast<Vec<uint32_t>>(v != v);
  const auto narrow = __builtin_convertvector((rounded & ~is_nan) | (((bits >> 16) | 0x40u) & is_nan),
                                              typename VecOf<uint16_t, STYLEFAST_BYTES / 2>::type);
  std::memcpy(p, &narrow, sizeof narrow);
}

STYLEFAST_INLINE void store(half* p, Vec<float> v) {
#if STYLEFAST_BYTES == 64
  const __m256i bits = _mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &bits, sizeof bits);
#elif STYLEFAST_BYTES == 32
  const __m128i bits = _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &bits, sizeof bits);
#else
  const Vec<uint32_t> bits = bit_cast<Vec<uint32_t>>(v);
  const Vec<uint32_t> sign = (bits >> 16) & 0x8000u;
  const Vec<uint32_t> magnitude = bits & 0x7fffffffu;
  // Normal halves: change the bias of the exponent and round to nearest even. Subnormal halves (below 2^-14): adding
  // 0.5 rounds to a multiple of 2^-24.
  const Vec<uint32_t> normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const Vec<float> shifted = bit_cast<Vec<float>>(magnitude) + 0.5f;
  const Vec<uint32_t> subnormal = bit_cast<Vec<uint32_t>>(shifted) - 0x3f000000u;
  const Vec<uint32_t> small = bit_cast<Vec<uint32_t>>(magnitude < (113u << 23));
  const Vec<uint32_t> large = bit_cast<Vec<uint32_t>>(magnitude >= 0x477ff000u);  // rounds to 65536 or more
  const Vec<uint32_t> is_nan = bit_cast<Vec<uint32_t>>(v != v);
  const Vec<uint32_t> finite = (subnormal & small) | (normal & ~small);
  const Vec<uint32_t> special = 0x7c00u | ((0x200u | ((magnitude >> 13) & 0x3ffu)) & is_nan);
  const Vec<uint32_t> value = (finite & ~large) | (special & large) | sign;
  const auto narrow = __builtin_convertvector(value, typename VecOf<uint16_t, STYLEFAST_BYTES / 2>::type);
  std::memcpy(p, &narrow, sizeof narrow);
#endif
}

// Stores a result that is not read soon. The store bypasses the caches if the instruction set has such stores. p must
// be aligned to the size of the vector.
template <typename T>
STYLEFAST_INLINE void stream(T* p, Vec<T> v) {
#if STYLEFAST_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), bit_cast<__m512i>(v));
#elif STYLEFAST_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bit_cast<__m256i>(v));
#else
  store(p, v);
#endif
}

// Orders the stores of stream(), which are weakly ordered, before later stores.
STYLEFAST_INLINE void stream_fence() {
#if STYLEFAST_BYTES >= 32
  _mm_sfence();
#endif
}

// Swaps the lanes of row a whose index has bit kStep set with the lanes of row b whose index has it clear.
template <typename T, int kStep, int... kLane>
STYLEFAST_INLINE void swap_blocks(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, kLane...>) {
  const Vec<T> upper = __builtin_shufflevector(a, b, ((kLane & kStep) ? kLane - kStep + kLanes<T> : kLane)...);
  b = __builtin_shufflevector(a, b, ((kLane & kStep) ? kLane + kLanes<T> : kLane + kStep)...);
  a = upper;
}

// Transposes kLanes x kLanes elements in log2(kLanes) stages; a stage swaps the off-diagonal blocks of side kStep.
template <typename T, int kStep = kLanes<T> / 2>
STYLEFAST_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if (!(i & kStep)) {
      swap_blocks<T, kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kLanes<T>>{});
    }
  }
  if constexpr (kStep > 1) transpose<T, kStep / 2>(rows);
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
#endif
