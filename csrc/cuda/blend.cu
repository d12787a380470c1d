// SPDX-License-Identifier: Apache-2.0
// blend on CUDA: all edits in one launch.
#include "tile.cuh"

namespace stylefast {
namespace {

constexpr int kBlendThreads = 128;   // per block
constexpr int64_t kHeldQueries = 8;  // rows of queries that a block can hold in shared memory

// Vector of kSize elements from one row.
template <typename T, int kSize>
struct alignas(kSize * sizeof(T) < 16 ? sizeof(T) : 16) Slice {
  T values[kSize];
};

// Rows of styles or queries: row i begins at data + i * stride, and its elements lie `step` apart.
template <typename T>
struct Rows {
  const T* data;
  int64_t count, stride, step;

  __device__ bool has(int64_t i) const { return i >= 0 && i < count; }

  // Index of the row of edit e if rows are paired. A single row serves all edits.
  __device__ int64_t paired(int64_t e) const { return count == 1 ? 0 : e; }

  // Elements [s, s + kSize) of row i. More than one element are read by loads of 16 bytes.
  template <int kSize>
  __device__ Slice<T, kSize> read(int64_t i, int64_t s) const {
    Slice<T, kSize> slice;
    const T* from = data + i * stride;
    if constexpr (kSize == 1) {
      slice.values[0] = from[s * step];
    } else {
#pragma unroll
      for (int j = 0; j < kSize; j += 16 / static_cast<int>(sizeof(T))) {
        *reinterpret_cast<Vector<T>*>(slice.values + j) = *reinterpret_cast<const Vector<T>*>(from + s + j);
      }
    }
    return slice;
  }
};

struct Edit {
  int64_t target, reference, query;  // rows
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
  bool holds_queries;          // whether blocks hold all queries in shared memory

  __device__ Edit edit(int64_t e) const {
    if (edits == nullptr) return {target.paired(e), reference.paired(e), query.paired(e)};
    return {edits[3 * e], edits[3 * e + 1], edits[3 * e + 2]};
  }
};

// What a block does for one edit.
template <typename T>
struct alignas(16) Step {
  T strength;          // NaN if a row of the edit does not exist
  int32_t read;        // the rows to read, because the edit before has others: kTarget, kReference, kQuery
  int32_t held_query;  // index of a query that the block holds

  static constexpr int kTarget = 1, kReference = 2, kQuery = 4;

  template <typename S>
  __device__ Step(const BlendTask<S>& task, int64_t e, bool is_first) : strength(1), read(0) {
    const Edit edit = task.edit(e), before = is_first ? Edit{-1, -1, -1} : task.edit(e - 1);
    const bool has_target = task.target.has(edit.target), has_reference = task.reference.has(edit.reference);
    const bool has_query = task.query.has(edit.query);
    held_query = static_cast<int32_t>(edit.query);
    if (task.strength != nullptr) strength = task.strength[e];
    if (!has_target || !has_reference || !has_query) strength = static_cast<T>(NAN);
    if (has_target && edit.target != before.target) read |= kTarget;
    if (has_reference && edit.reference != before.reference) read |= kReference;
    if (has_query && edit.query != before.query) read |= kQuery;
  }
};

// Slices of a target and a reference.
template <typename S, int kSize>
struct Pair {
  using T = typename Compute<S>::type;
  Slice<S, kSize> target{}, reference{};
  T start[kSize]{}, difference[kSize]{};  // target, reference - target

  __device__ void update() {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      start[i] = widen(target.values[i]);
      difference[i] = widen(reference.values[i]) - start[i];
    }
  }

  // target + query (reference - target); exactly the target where query is 0 and the reference where it is 1.
  __device__ S mix(int i, T query) const {
    S mixed = narrow<S>(fma(query, difference[i], start[i]));  // in any case: a selection is cheaper than a branch
    mixed = query == 0 ? target.values[i] : mixed;
    return query == 1 ? reference.values[i] : mixed;
  }
};

template <typename S, int kSize>
__device__ void store(const Slice<S, kSize>& from, S* to) {
  if constexpr (kSize == 1) {
    *to = from.values[0];
  } else {  // the results do not displace the operands from the cache
    __stcs(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(&from));
  }
}

// Slices of all queries, which one thread writes to shared memory and only the same thread reads.
template <typename T, int kSize>
class HeldQueries {
  using Piece = std::conditional_t<kSize == 1, T, Vector<T>>;
  static constexpr int kPieces = sizeof(Slice<T, kSize>) / sizeof(Piece);

 public:
  __host__ __device__ HeldQueries(Carver& carver, int64_t queries)
      : pieces_(carver.take<Piece>(queries * kPieces * kBlendThreads)) {}

  __device__ void write(int i, const Slice<T, kSize>& from) const {
#pragma unroll
    for (int j = 0; j < kPieces; ++j) piece(i, j) = reinterpret_cast<const Piece*>(&from)[j];
  }

  __device__ Slice<T, kSize> read(int i) const {
    Slice<T, kSize> to;
#pragma unroll
    for (int j = 0; j < kPieces; ++j) reinterpret_cast<Piece*>(&to)[j] = piece(i, j);
    return to;
  }

 private:
  // Lanes access neighbouring pieces.
  __device__ Piece& piece(int i, int j) const {
    return pieces_[(i * kPieces + j) * kBlendThreads + static_cast<int>(threadIdx.x)];
  }

  Piece* pieces_;
};

template <typename S, bool kWide>
inline constexpr int kSliceSize = kWide ? 16 / static_cast<int>(sizeof(S)) : 1;  // channels per thread

// Shared memory of a block.
template <typename S, bool kWide>
struct BlendMemory {
  using T = typename Compute<S>::type;

  __host__ __device__ BlendMemory(Carver carver, int64_t held_queries)
      : steps(carver.take<Step<T>>(kBlendThreads)), queries(carver, held_queries), bytes(carver.bytes()) {}

  Step<T>* steps;  // [kBlendThreads]
  HeldQueries<T, kSliceSize<S, kWide>> queries;
  int64_t bytes;
};

// Each thread owns a slice of channels: 16 bytes if kWide, otherwise one element. blockIdx.x determines the channels of
// a block. blockIdx.y determines its edits, which are consecutive.
//
// A thread holds its slices of the current target, reference and query in registers, and reads a slice again only where
// the row differs from that of the edit before. If there are few queries, it reads all of them at the beginning and
// holds them in shared memory. The threads find out for one edit each which rows must be read.
template <typename S, bool kWide>
__global__ void __launch_bounds__(kBlendThreads, 8) blend_kernel(BlendTask<S> task) {
  using T = typename Compute<S>::type;
  constexpr int kSize = kSliceSize<S, kWide>;
  const BlendMemory<S, kWide> memory(Carver(shared_memory()), task.holds_queries ? task.query.count : 0);
  const int64_t s = (static_cast<int64_t>(blockIdx.x) * kBlendThreads + threadIdx.x) * kSize;
  const bool owns = s < task.width;
  for (int i = 0; owns && task.holds_queries && i < task.query.count; ++i) {
    memory.queries.write(i, task.query.template read<kSize>(i, s));
  }
  Pair<S, kSize> pair;
  Slice<T, kSize> query{};
  const int64_t begin = part_begin(task.edits_count, blockIdx.y, gridDim.y);
  const int64_t end = part_begin(task.edits_count, blockIdx.y + 1, gridDim.y);
  for (int64_t first = begin; first < end; first += kBlendThreads) {
    const int count = static_cast<int>(min(end - first, static_cast<int64_t>(kBlendThreads))), i = threadIdx.x;
    __syncthreads();  // the previous steps are finished
    if (i < count) memory.steps[i] = Step<T>(task, first + i, first + i == begin);
    __syncthreads();
    S* to = task.out + first * task.width + s;
    for (int j = 0; owns && j < count; ++j, to += task.width) {
      const Step<T> step = memory.steps[j];
      if (step.read & (step.kTarget | step.kReference)) {
        const Edit edit = task.edit(first + j);
        if (step.read & step.kTarget) pair.target = task.target.template read<kSize>(edit.target, s);
        if (step.read & step.kReference) pair.reference = task.reference.template read<kSize>(edit.reference, s);
        pair.update();
      }
      if (step.read & step.kQuery) {
        if (task.holds_queries) {
          query = memory.queries.read(step.held_query);
        } else {
          query = task.query.template read<kSize>(task.edit(first + j).query, s);
        }
      }
      Slice<S, kSize> mixed;
#pragma unroll
      for (int c = 0; c < kSize; ++c) mixed.values[c] = pair.mix(c, query.values[c] * step.strength);
      store(mixed, to);
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
    BlendTask<S> task{rows<S>(target),      rows<S>(reference), rows<T>(query), nullptr, nullptr,
                      mutable_data<S>(out), out.size(0),        out.size(1),    false};
    if (edit_rows.has_value()) task.edits = data<int64_t>(*edit_rows);
    if (strengths.has_value()) task.strength = data<T>(*strengths);
    constexpr int64_t kVector = 16 / sizeof(S), kQueries = 16 / sizeof(T);
    const bool wide = aligned(task.target, kVector) && aligned(task.reference, kVector) &&
                      aligned(task.query, kQueries) && reinterpret_cast<uintptr_t>(task.out) % 16 == 0 &&
                      task.width % kVector == 0;
    task.holds_queries = task.query.count > 1 && task.query.count <= kHeldQueries;
    const int64_t held = task.holds_queries ? task.query.count : 0;
    const int64_t shared =
        wide ? BlendMemory<S, true>(Carver(nullptr), held).bytes : BlendMemory<S, false>(Carver(nullptr), held).bytes;
    const auto kernel = wide ? blend_kernel<S, true> : blend_kernel<S, false>;
    const int64_t threads = wide ? task.width / kVector : task.width;
    const int64_t slices = (threads + kBlendThreads - 1) / kBlendThreads;
    if (slices == 0 || task.edits_count == 0) return;
    const int64_t resident = device.resident_blocks(kernel, kBlendThreads, shared) / slices;
    const int64_t parts = std::clamp<int64_t>(resident, 1, std::min<int64_t>(task.edits_count, 65535));
    device.launch(kernel, {slices, kBlendThreads, shared, parts}, task);
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
