// SPDX-License-Identifier: Apache-2.0
// blend on the CPU: checks the indices of the edits, then divides the rows among threads.
#include <atomic>
#include <chrono>
#include <limits>

#include "../common/tensor.h"

#define STYLEFAST_KERNEL "blend.kernel.h"
#include "isa.h"

namespace stylefast {
namespace {

// Chooses between plain stores and stores that bypass the caches for results of one kind. Which are faster depends on
// the processor and on the caches that other programs leave free. Therefore the first results are timed: some are
// written with plain stores, then some past the caches, and later results are written in the faster way. They do not
// alternate, because stores past the caches evict what the next plain stores could find there. The bits are the same.
class Stores {
 public:
  template <typename F>
  void write(int64_t bytes, const F& f) {
    if (trials_.load() >= kTrials) return f(best_[true].load() < best_[false].load());
    const bool past_caches = trials_.fetch_add(1) >= kTrials / 2;
    const auto begin = std::chrono::steady_clock::now();
    f(past_caches);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const double per_byte = seconds.count() / static_cast<double>(bytes);
    double best = best_[past_caches].load();
    while (per_byte < best && !best_[past_caches].compare_exchange_weak(best, per_byte)) {
    }
  }

 private:
  static constexpr int kTrials = 8;
  static constexpr double kNever = std::numeric_limits<double>::infinity();
  std::atomic<int> trials_{0};
  std::atomic<double> best_[2] = {kNever, kNever};  // least seconds per byte with plain stores, and past the caches
};

// Calls f(past_caches), which writes `bytes` bytes. Gathered rows are read from caches and rows in pairs from memory,
// so their stores are chosen separately, as are those of results of different magnitude.
template <typename F>
void choose_stores(bool gathered, int64_t bytes, const F& f) {
  constexpr int64_t kSmall = 1 << 20;  // smaller results stay in the caches
  static Stores stores[2][8];
  if (bytes < kSmall) return f(false);
  int size = 0;
  while (size < 7 && bytes >> (size + 1) >= kSmall) ++size;
  stores[gathered][size].write(bytes, f);
}

void check_edits(const int64_t* edits, int64_t count, const int64_t (&rows)[3]) {
  for (int64_t i = 0; i < 3 * count; ++i) {
    STD_TORCH_CHECK(edits[i] >= 0 && edits[i] < rows[i % 3], "edits[", i / 3, ", ", i % 3, "] is ", edits[i],
                    ", but there are ", rows[i % 3], " rows");
  }
}

Tensor unit_columns(const Tensor& rows) { return rows.stride(1) == 1 ? rows : make_contiguous(rows); }

template <typename T>
Rows<T> rows_view(const Tensor& rows) {
  return {data<T>(rows), rows.size(0), rows.stride(0)};
}

int64_t count_edits(const Tensor& target, const Tensor& reference, const Tensor& query,
                    const std::optional<Tensor>& edits) {
  if (edits.has_value()) return edits->size(0);
  int64_t rows = 1;
  for (const Tensor* tensor : {&target, &reference, &query}) {
    if (tensor->size(0) != 1) rows = tensor->size(0);
  }
  return rows;
}

// (target [T,S], reference [R,S], query [Q,S], edits [E,3]?, strength [E]?, out [E,S]) -> ()
void blend_out(const Tensor& target, const Tensor& reference, const Tensor& query, const std::optional<Tensor>& edits,
               const std::optional<Tensor>& strength, const Tensor& out) {
  dispatch(target, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = typename Compute<S>::type;
    const Tensor t = unit_columns(target), r = unit_columns(reference), q = unit_columns(query);
    const std::optional<Tensor> edit_rows = edits.has_value() ? std::optional(make_contiguous(*edits)) : std::nullopt;
    const std::optional<Tensor> strengths =
        strength.has_value() ? std::optional(make_contiguous(*strength)) : std::nullopt;
    BlendTask<S> task{};
    task.target = rows_view<S>(t), task.reference = rows_view<S>(r), task.query = rows_view<T>(q);
    task.edits = edit_rows.has_value() ? data<int64_t>(*edit_rows) : nullptr;
    task.strength = strengths.has_value() ? data<T>(*strengths) : nullptr;
    task.out = mutable_data<S>(out), task.edits_count = out.size(0), task.width = out.size(1);
    if (task.edits != nullptr) {
      check_edits(task.edits, task.edits_count, {task.target.count, task.reference.count, task.query.count});
    }
    const auto kernel = STYLEFAST_PICK(blend_kernel<S>);
    const int64_t size = task.edits_count * task.width, bytes = size * static_cast<int64_t>(sizeof(S));
    const int64_t parts = parts_for(size / 4096 + 1, 8 * size);  // most of the time is memory traffic
    choose_stores(task.edits != nullptr, bytes, [&](bool past_caches) {
      task.past_caches = past_caches;
      parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
    });
  });
}

Tensor blend(const Tensor& target, const Tensor& reference, const Tensor& query, const std::optional<Tensor>& edits,
             const std::optional<Tensor>& strength) {
  const Tensor out =
      empty({count_edits(target, reference, query, edits), target.size(1)}, target.scalar_type(), target);
  blend_out(target, reference, query, edits, strength, out);
  return out;
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) {
  m.impl("blend_cpu", TORCH_BOX(&stylefast::blend));
  m.impl("blend_cpu.out", TORCH_BOX(&stylefast::blend_out));
}
