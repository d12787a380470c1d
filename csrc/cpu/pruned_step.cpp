// SPDX-License-Identifier: Apache-2.0
// pruned_step on the CPU: the tiles of all images are divided among threads, whose sums are exact.
#include <numeric>

#include "../common/tensor.h"

#define STYLEFAST_KERNEL "pruned_step.kernel.h"
#include "isa.h"
#include "prepare.h"

namespace stylefast {
namespace {

// Centroids of B restarts, [B, K, C], in the layouts of the kernel.
struct Restarts {
  Restarts(const Tensor& centroids, int64_t restarts, int64_t clusters, int64_t channels)
      : size(padded<float>(clusters) * padded<float>(channels)),
        packed(restarts * size),
        rows(restarts * clusters * padded<float>(channels)) {
    const float* from = data<float>(centroids);
    const int64_t width = padded<float>(channels);
    const auto pack = STYLEFAST_PICK(pack_centroids<float>);
    for (int64_t b = 0; b < restarts; ++b) pack(from + b * clusters * channels, clusters, channels, packed + b * size);
    std::fill(rows + 0, rows + restarts * clusters * width, 0.0f);
    for (int64_t i = 0; i < restarts * clusters; ++i) {
      std::copy(from + i * channels, from + (i + 1) * channels, rows + i * width);
    }
  }

  int64_t size;  // of `packed` per restart
  Buffer<float> packed, rows;
};

// The centroids of each restart that moved most since the previous step.
struct Movers {
  Movers(const Tensor& centroids, const float* moved, int64_t restarts, int64_t clusters, int64_t channels)
      : count(moved == nullptr || clusters < kLeast ? 0 : clusters / 4),
        size(padded<float>(count) * padded<float>(channels)),
        packed(restarts * size),
        labels(restarts * count),
        rest(restarts) {
    const Buffer<float> rows(count * channels);
    std::vector<int32_t> order(clusters);
    for (int64_t b = 0; b < restarts; ++b) {
      rest[b] = std::numeric_limits<float>::infinity();
      if (count == 0) continue;
      std::iota(order.begin(), order.end(), 0);
      std::nth_element(order.begin(), order.begin() + count, order.end(),
                       [&](int32_t i, int32_t j) { return moved[b * clusters + i] > moved[b * clusters + j]; });
      rest[b] = moved[b * clusters + order[count]];
      std::copy(order.begin(), order.begin() + count, labels + b * count);
      for (int64_t m = 0; m < count; ++m) {
        const float* from = data<float>(centroids) + (b * clusters + order[m]) * channels;
        std::copy(from, from + channels, rows + m * channels);
      }
      STYLEFAST_PICK(pack_centroids<float>)(rows, count, channels, packed + b * size);
    }
  }

  // With fewer clusters, scoring all centroids is faster, because it makes the bounds of later steps tight.
  static constexpr int64_t kLeast = 64;
  int64_t count;  // per restart
  int64_t size;   // of `packed` per restart
  Buffer<float> packed;
  Buffer<int32_t> labels;
  Buffer<float> rest;  // largest movement of the other centroids
};

// to [rows, width] = former + sum over parts of changes [parts, rows, stride]. All sums are exact.
template <typename V>
void add_changes(const V* former, const V* changes, int64_t parts, int64_t rows, int64_t width, int64_t stride, V* to) {
  for (int64_t i = 0; i < rows * width; ++i) {
    V sum = former == nullptr ? V(0) : former[i];
    for (int64_t p = 0; p < parts; ++p) sum += changes[(p * rows + i / width) * stride + i % width];
    to[i] = sum;
  }
}

// (activations [N,C,H,W], centroids [B,K,C], features, and of the former step: labels [B,N,H,W], bounds [2,B,N,H,W],
// sums [B,K,C], counts [B,K], movement since then [2,B,K])
// -> labels [B,N,H,W], bounds [2,B,N,H,W], sums [B,K,C], counts [B,K], objective [B]
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pruned_step(const Tensor& activations, const Tensor& centroids,
                                                               const std::string& features,
                                                               const std::optional<Tensor>& former_labels,
                                                               const std::optional<Tensor>& former_bounds,
                                                               const std::optional<Tensor>& former_sums,
                                                               const std::optional<Tensor>& former_counts,
                                                               const std::optional<Tensor>& movement) {
  const Source a = source(activations);
  const int64_t restarts = centroids.size(0), clusters = centroids.size(1), rows = restarts * clusters;
  const int64_t parts = parts_for((a.positions() + 31) / 32, 2 * (rows + restarts + 1) * a.c * a.positions());
  const Tensor centroid_rows = make_contiguous(centroids);
  const Prepared<float> prepared(a, parse_features(features), centroid_rows);
  const Restarts each(centroid_rows, restarts, clusters, a.c);
  const float* moved = movement ? data<float>(*movement) : nullptr;
  const Movers movers(centroid_rows, moved, restarts, clusters, a.c);
  const Tensor labels = empty<int32_t>({restarts, a.n, a.h, a.w}, activations);
  const Tensor bounds = empty<float>({2, restarts, a.n, a.h, a.w}, activations);
  const Tensor sums = empty<double>({restarts, clusters, a.c}, activations);
  const Tensor counts = empty<int64_t>({restarts, clusters}, activations);
  const Tensor objective = empty<double>({restarts}, activations);

  // Sums of at most `positions` multiples of 2^-q, which are at most 1, are exact below 2^(53 - q).
  const int q = 51 - std::ilogb(static_cast<double>(a.positions() + 1));
  const int64_t width = padded<float>(a.c);
  const Buffer<double> part_sums(parts * rows * width);
  const Buffer<int64_t> part_counts(parts * rows);
  const PrunedTask<float> task{prepared.points(),
                               restarts,
                               clusters,
                               each.rows,
                               each.packed,
                               each.size,
                               former_labels ? data<int32_t>(*former_labels) : nullptr,
                               former_bounds ? data<float>(*former_bounds) : nullptr,
                               moved,
                               movers.count,
                               movers.labels,
                               movers.packed,
                               movers.size,
                               movers.rest,
                               std::ldexp(1.5f, 23 - q),
                               mutable_data<int32_t>(labels),
                               mutable_data<float>(bounds),
                               part_sums,
                               part_counts};
  const auto kernel = STYLEFAST_PICK(pruned_kernel<float>);
  parallel(parts, [&](int64_t part) { kernel(task, part, parts); });

  add_changes<double>(former_sums ? data<double>(*former_sums) : nullptr, part_sums, parts, rows, a.c, width,
                      mutable_data<double>(sums));
  add_changes<int64_t>(former_counts ? data<int64_t>(*former_counts) : nullptr, part_counts, parts, rows, 1, 1,
                       mutable_data<int64_t>(counts));
  for (int64_t b = 0; b < restarts; ++b) {
    const int64_t size = clusters * a.c;
    double sum = 0;  // of <sums, centroids>
    for (int64_t i = b * size; i < (b + 1) * size; ++i) sum += data<double>(sums)[i] * data<float>(centroid_rows)[i];
    mutable_data<double>(objective)[b] = sum / static_cast<double>(std::max<int64_t>(1, a.positions()));
  }
  return std::make_tuple(labels, bounds, sums, counts, objective);
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("pruned_step_cpu", TORCH_BOX(&stylefast::pruned_step)); }
