// SPDX-License-Identifier: Apache-2.0
// The output M of assign_contribution.cpp and contribution.cpp.
#pragma once

#include "source.h"

namespace stylefast {

// The output M. Unless per_image, also the sums of every part, from which reduce() computes M.
template <typename T>
struct ContributionOutput {
  ContributionOutput(const Tensor& activations, int64_t clusters, bool per_image)
      : clusters(clusters),
        channels(activations.size(1)),
        stride(padded<T>(channels) + kVectorBytes / static_cast<int64_t>(sizeof(double))),
        per_image(per_image),
        tensor(empty<T>(per_image ? std::vector<int64_t>{activations.size(0), clusters, channels}
                                  : std::vector<int64_t>{clusters, channels},
                        activations)) {}

  Contributions<T> allocate(int64_t parts) {
    if (per_image) return {nullptr, stride, mutable_data<T>(tensor)};
    sums.emplace(parts * clusters * stride);
    return {*sums, stride, nullptr};
  }

  void reduce(int64_t parts, int64_t positions) {
    if (per_image) return;
    const double scale = 1 / static_cast<double>(std::max<int64_t>(1, positions));
    reduce_parts<T>(*sums, parts, clusters, channels, stride, scale, mutable_data<T>(tensor));
  }

  int64_t clusters, channels, stride;  // K, C; of a row of sums
  bool per_image;
  Tensor tensor;                       // M: [K, C], or [N, K, C] if per_image
  std::optional<Buffer<double>> sums;  // [parts, K, stride], unless per_image
};

}  // namespace stylefast
