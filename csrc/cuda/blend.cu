// SPDX-License-Identifier: Apache-2.0
// blend on CUDA: all edits in one launch.
#include "tile.cuh"

namespace stylefast {
namespace {

// Rows of styles or queries: row i begins at data + i * stride, and its elements lie `step` apart.
template <typename T>
struct Rows {
  const T* data;
  int64_t count, stride, step;

  // Returns the row of edit e: row *index or, if index is null, row e or the only row. Returns null if the row does not
  // exist.
  __device__ const T* row(int64_t e, const int64_t* index) const {
    const int64_t i = index != nullptr ? *index : count == 1 ? 0 : e;
    return i >= 0 && i < count ? data + i * stride : nullptr;
  }
};

template <typename S>
struct BlendTask {
  using T = typename Compute<S>::type;
  Rows<S> target, reference;
  Rows<T> query;
  const int64_t* edits;        // [E, 3], or null
  const T* strength;           // [E], or null
  S* out;                      // [E, S]
  int64_t edits_count, width;  // E, S
};

// target + query (reference - target); exactly the target where query is 0 and the reference where it is 1.
template <typename S, typename T>
__device__ S mix(S target, S reference, T query) {
  const T t = widen(target), mixed = fma(query, widen(reference) - t, t);
  return query == 0 ? target : query == 1 ? reference : narrow<S>(mixed);
}

// Each thread blends one vector of channels per edit: 16 bytes if kWide, otherwise one element. blockIdx.x determines
// the channels of a block, and blockIdx.y its edits: every gridDim.y-th edit.
template <typename S, bool kWide>
__global__ void __launch_bounds__(kThreads) blend_kernel(BlendTask<S> task) {
  using T = typename Compute<S>::type;
  constexpr int kVector = kWide ? 16 / static_cast<int>(sizeof(S)) : 1;
  const int64_t s = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (s >= task.width) return;
  for (int64_t e = blockIdx.y; e < task.edits_count; e += gridDim.y) {
    const int64_t* edit = task.edits == nullptr ? nullptr : task.edits + 3 * e;
    const S* t = task.target.row(e, edit);
    const S* r = task.reference.row(e, edit == nullptr ? nullptr : edit + 1);
    const T* q = task.query.row(e, edit == nullptr ? nullptr : edit + 2);
    const T strength = task.strength == nullptr ? T(1) : task.strength[e];
    Vector<S, kVector> target{}, reference{};
    alignas(16) T query[kVector];
    if (t == nullptr || r == nullptr || q == nullptr) {  // a row does not exist, so the result is NaN
      for (int i = 0; i < kVector; ++i) query[i] = static_cast<T>(NAN);
    } else if constexpr (kWide) {
      target = *reinterpret_cast<const Vector<S>*>(t + s);
      reference = *reinterpret_cast<const Vector<S>*>(r + s);
#pragma unroll
      for (int i = 0; i < kVector; i += 16 / static_cast<int>(sizeof(T))) {
        *reinterpret_cast<Vector<T>*>(query + i) = *reinterpret_cast<const Vector<T>*>(q + s + i);
      }
    } else {
      target.values[0] = t[s * task.target.step], reference.values[0] = r[s * task.reference.step];
      query[0] = q[s * task.query.step];
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      target.values[i] = mix(target.values[i], reference.values[i], query[i] * strength);
    }
    S* to = task.out + e * task.width + s;
    if constexpr (kWide) {
      *reinterpret_cast<Vector<S>*>(to) = target;
    } else {
      *to = target.values[0];
    }
  }
}

template <typename T>
Rows<T> rows(const Tensor& tensor) {
  return {data<T>(tensor), tensor.size(0), tensor.stride(0), tensor.stride(1)};
}

// Whether every row can be read in vectors of 16 bytes, which hold `vector` elements.
template <typename T>
bool aligned(const Rows<T>& rows, int64_t vector) {
  return rows.step == 1 && reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 &&
         (rows.count == 1 || rows.stride % vector == 0);
}

// (target [T,S], reference [R,S], query [Q,S], edits [E,3]?, strength [E]?, out [E,S]) -> ()
void blend_out(const Tensor& target, const Tensor& reference, const Tensor& query, const std::optional<Tensor>& edits,
               const std::optional<Tensor>& strength, const Tensor& out) {
  dispatch(target, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = typename Compute<S>::type;
    const Device device(target);
    const std::optional<Tensor> edit_rows = edits.has_value() ? std::optional(contiguous(*edits)) : std::nullopt;
    const std::optional<Tensor> strengths = strength.has_value() ? std::optional(contiguous(*strength)) : std::nullopt;
    BlendTask<S> task{rows<S>(target), rows<S>(reference),   rows<T>(query), nullptr,
                      nullptr,         mutable_data<S>(out), out.size(0),    out.size(1)};
    if (edit_rows.has_value()) task.edits = data<int64_t>(*edit_rows);
    if (strengths.has_value()) task.strength = data<T>(*strengths);
    constexpr int64_t kVector = 16 / sizeof(S), kQueries = 16 / sizeof(T);
    const bool wide = aligned(task.target, kVector) && aligned(task.reference, kVector) &&
                      aligned(task.query, kQueries) && reinterpret_cast<uintptr_t>(task.out) % 16 == 0 &&
                      task.width % kVector == 0;
    const int64_t threads = wide ? task.width / kVector : task.width;
    const Grid grid{(threads + kThreads - 1) / kThreads, kThreads, 0, std::min<int64_t>(task.edits_count, 65535)};
    device.launch(wide ? blend_kernel<S, true> : blend_kernel<S, false>, grid, task);
  });
}

Tensor blend(const Tensor& target, const Tensor& reference, const Tensor& query, const std::optional<Tensor>& edits,
             const std::optional<Tensor>& strength) {
  int64_t count = 1;
  for (const Tensor* tensor : {&target, &reference, &query}) {
    if (tensor->size(0) != 1) count = tensor->size(0);
  }
  if (edits.has_value()) count = edits->size(0);
  const Tensor out = torch::stable::new_empty(target, {count, target.size(1)});
  blend_out(target, reference, query, edits, strength, out);
  return out;
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) {
  m.impl("blend_cuda", TORCH_BOX(&stylefast::blend));
  m.impl("blend_cuda.out", TORCH_BOX(&stylefast::blend_out));
}
