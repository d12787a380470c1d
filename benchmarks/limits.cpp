// SPDX-License-Identifier: Apache-2.0
// Measures the limits of this processor: bytes read, copied and stored per second, and multiply-adds per second. It is
// compiled for the machine that it measures (-march=native). `asm volatile` marks a value as used or changed, at no
// cost. Without it, a compiler may delete a loop whose result is not read, or turn a copy into memcpy.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr size_t kLanes = kBytes / sizeof(float);

typedef float Vec __attribute__((vector_size(kBytes)));

#if defined(__x86_64__)
#define TOUCH(vector) asm volatile("" : "+v"(vector))
#else
#define TOUCH(vector) asm volatile("" : "+w"(vector))
#endif

inline void stream(float* to, Vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, v);
#elif defined(__AVX__)
  _mm256_stream_ps(to, v);
#elif defined(__x86_64__)
  _mm_stream_ps(to, v);
#else
  *reinterpret_cast<Vec*>(to) = v;
#endif
}

// Each turn (iteration) of a loop handles eight vectors, so that the overhead of the loop is negligible. The software
// prefetch continues across pages, unlike the hardware prefetch.
constexpr size_t kTurn = 8 * kLanes;
constexpr size_t kAhead = 256;

void read(const float* from, float*, size_t count) {
  for (size_t i = 0; i + kTurn <= count; i += kTurn) {
    for (size_t j = 0; j < kTurn; j += 16) __builtin_prefetch(from + i + j + kAhead);
    for (size_t j = 0; j < kTurn; j += kLanes) {
      Vec v = *reinterpret_cast<const Vec*>(from + i + j);
      TOUCH(v);
    }
  }
}

template <bool kStream>
void copy(const float* from, float* to, size_t count) {
  for (size_t i = 0; i + kTurn <= count; i += kTurn) {
    for (size_t j = 0; j < kTurn; j += 16) __builtin_prefetch(from + i + j + kAhead);
    for (size_t j = 0; j < kTurn; j += kLanes) {
      Vec v = *reinterpret_cast<const Vec*>(from + i + j);
      TOUCH(v);
      if constexpr (kStream) {
        stream(to + i + j, v);
      } else {
        *reinterpret_cast<Vec*>(to + i + j) = v;
      }
    }
  }
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void fill(const float*, float* to, size_t count) {
  for (size_t i = 0; i + kTurn <= count; i += kTurn) {
    for (size_t j = 0; j < kTurn; j += kLanes) stream(to + i + j, Vec{} + 1.0f);
  }
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Twelve independent chains hide the latency of two multiply-add units and leave registers for the two constants.
constexpr int kChains = 12;

void fma(const float*, float*, size_t count) {
  Vec sums[kChains] = {}, factor = Vec{} + 0.5f, term = Vec{} + 1.0f;
  TOUCH(factor);
  TOUCH(term);
  for (size_t i = 0; i < count; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      sums[j] = sums[j] * factor + term;
      TOUCH(sums[j]);
    }
  }
}

using Work = void (*)(const float*, float*, size_t);
constexpr Work kWork[] = {read, copy<false>, copy<true>, fill, fma};
constexpr int kFma = 4;

void bind(int cpu) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
#else
  (void)cpu;
#endif
}

}  // namespace

extern "C" {

// Returns the seconds from the start of the first thread to the end of the last thread. Each thread runs on its own
// processor and processes its share of `count` floats or, for fma, all `count` turns. The threads wait until all have
// started. `from` and `to` must be multiples of 64 bytes.
double run_limit(int kind, int threads, const int* cpus, const float* from, float* to, size_t count) {
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> begin(threads), end(threads);
  std::atomic<int> waiting{threads};
  const size_t share = kind == kFma ? count : count / threads / kTurn * kTurn;
  auto worker = [&](int i) {
    if (cpus != nullptr) bind(cpus[i]);
    --waiting;
    while (waiting > 0) {
    }
    const size_t first = kind == kFma ? 0 : i * share;
    begin[i] = Clock::now();
    kWork[kind](from + first, to + first, share);
    end[i] = Clock::now();
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(worker, i);
  for (std::thread& each : workers) each.join();
  Clock::time_point first = begin[0], last = end[0];
  for (int i = 1; i < threads; ++i) {
    if (begin[i] < first) first = begin[i];
    if (end[i] > last) last = end[i];
  }
  return std::chrono::duration<double>(last - first).count();
}

int vector_bytes() { return kBytes; }

double turn_flops() { return 2.0 * kChains * kLanes; }
}
