// SPDX-License-Identifier: Apache-2.0
// What the ops that assign need before their kernels: statistics of standardised planes, centroids in the kernels'
// order.
#pragma once

#include "label.cuh"

namespace stylefast {

template <typename S>
struct Prepared {
  Prepared(const Device& device, const Tensor& activations, const Tensor& centroids, Features features);

  Points<S> points;

 private:
  std::vector<Tensor> buffers_;  // that points looks into
};

// What a block that labels keeps in shared memory.
struct Plan {
  int channels;         // of a tile
  bool sums_in_shared;  // whether the block's sums lie there, too
  int64_t shared;       // bytes
};

// As much as fits: all channels and the sums, else all channels, else some. `take` carves what the kernel needs beside
// LabelMemory, the sums if its second argument is true.
template <typename S, typename Take>
Plan plan(const Device& device, const Points<S>& points, Take&& take) {
  const int64_t limit = device.shared_limit();
  const auto shared = [&](int64_t channels, bool sums_in_shared) {
    Carver carver(nullptr);
    LabelMemory<S>(carver, static_cast<int>(channels));
    take(carver, sums_in_shared);
    return carver.bytes();
  };
  int64_t channels = points.channels;
  const bool sums_in_shared = shared(channels, true) <= limit;
  while (channels > 32 && shared(channels, sums_in_shared) > limit) channels -= 32;
  return {static_cast<int>(channels), sums_in_shared, shared(channels, sums_in_shared)};
}

// Labels for all restarts, and similarity if it is not null. (assign.cu)
template <typename S>
void label_all(const Device& device, const Points<S>& points, int32_t* labels, typename Row<S>::T* similarity);

}  // namespace stylefast
