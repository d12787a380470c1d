// SPDX-License-Identifier: Apache-2.0
// Kernel of blend. Rows are gathered by index, so the operands of a grid of edits are read from the cache, and only the
// result goes to memory, with plain stores or with stores that bypass the caches.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// target + query (reference - target); exactly the target where query is 0 and the reference where it is 1.
template <typename T>
STYLEFAST_INLINE Vec<T> mix(Vec<T> target, Vec<T> reference, Vec<T> query) {
  const Vec<T> mixed = target + query * (reference - target);
  return query == 0 ? target : query == 1 ? reference : mixed;
}

template <typename S, typename T>
void blend_row(const S* target, const S* reference, const T* query, T strength, S* out, int64_t width,
               bool past_caches) {
  constexpr int L = kLanes<T>;
  const auto mix_one = [&](int64_t i) {
    S t[L] = {target[i]}, r[L] = {reference[i]}, mixed[L];
    store(mixed, mix<T>(load(t), load(r), splat(strength * query[i])));
    out[i] = mixed[0];
  };
  int64_t i = 0;
  if constexpr (sizeof(S) == sizeof(T)) {
    for (; past_caches && i < width && reinterpret_cast<uintptr_t>(out + i) % STYLEFAST_BYTES != 0; ++i) mix_one(i);
    for (; past_caches && i + L <= width; i += L) {
      stream(out + i, mix<T>(load(target + i), load(reference + i), strength * load(query + i)));
    }
  }
  for (; i + L <= width; i += L) {
    store(out + i, mix<T>(load(target + i), load(reference + i), strength * load(query + i)));
  }
  for (; i < width; ++i) mix_one(i);
}

template <typename S, typename T = typename Compute<S>::type>
void blend_kernel(const BlendTask<S>& task, int64_t part, int64_t parts) {
  constexpr int64_t kBlock = 2048;  // channels per unit of work, so that threads can share one long row
  const int64_t blocks = (task.width + kBlock - 1) / kBlock, units = task.edits_count * blocks;
  for (int64_t u = part_begin(units, part, parts); u < part_begin(units, part + 1, parts); ++u) {
    const int64_t e = u / blocks, first = u % blocks * kBlock;
    const auto operand = [&](const auto& rows, int column) {
      const int64_t row = task.edits != nullptr ? task.edits[3 * e + column] : rows.count == 1 ? 0 : e;
      return rows.data + row * rows.stride + first;
    };
    blend_row<S, T>(operand(task.target, 0), operand(task.reference, 1), operand(task.query, 2),
                    task.strength == nullptr ? T(1) : task.strength[e], task.out + e * task.width + first,
                    std::min(kBlock, task.width - first), task.past_caches);
  }
  if (task.past_caches) stream_fence();
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
