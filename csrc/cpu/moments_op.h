// SPDX-License-Identifier: Apache-2.0
// The half of assign_contribution and contribution that they share below the waterline.
#pragma once

#include "source.h"

namespace stylefast {

// M, and the sums of the parts that it is reduced from.
template <typename T>
struct ContributionOutput {
  ContributionOutput(const Tensor& activations, int64_t clusters, bool per_image)
      : clusters(clusters),
        channels(activations.size(1)),
        per_image(per_image),
        tensor(empty<T>(per_image ? std::vector<int64_t>{activations.size(0), clusters, channels}
                                  : std::vector<int64_t>{clusters, channels},
                        activations)) {}

  Contributions<T> allocate(int64_t parts) {
    if (per_image) return {nullptr, mutable_data<T>(tensor)};
    sums.emplace(parts * clusters * padded<T>(channels));
    return {*sums, nullptr};
  }

  void reduce(int64_t parts, int64_t positions) {
    if (per_image) return;
    const double scale = 1 / static_cast<double>(std::max<int64_t>(1, positions));
    reduce_parts<T>(*sums, parts, clusters, channels, scale, mutable_data<T>(tensor));
  }

  int64_t clusters, channels;
  bool per_image;
  Tensor tensor;
  std::optional<Buffer<double>> sums;
};

// Labels (given or chosen) and M in one read, in the kernels that assign_contribution.cpp compiles.
template <typename T>
void run_moments(MomentsTask<T> task, ContributionOutput<T>& output);

}  // namespace stylefast
