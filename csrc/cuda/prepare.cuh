// SPDX-License-Identifier: Apache-2.0
// Inputs of the kernels that assign labels: statistics of the planes for standardised features, and centroids in the
// order in which the kernels read them.
#pragma once

#include "label.cuh"

namespace stylefast {

template <typename S>
struct Prepared {
  Prepared(const Device& device, const Tensor& activations, const Tensor& centroids, Features features);

  Points<S> points;

 private:
  std::vector<Tensor> buffers_;  // own the memory that `points` refers to
};

// Use of shared memory by a block that assigns labels.
struct Plan {
  int channels;         // channels of a tile that are held at a time
  bool sums_in_shared;  // whether the block's sums lie in shared memory, too
  int64_t shared;       // bytes
};

// Chooses the first of these contents that fits: all channels and the sums; all channels; as many channels as possible,
// in steps of 32. `take` reserves the memory that the kernel needs in addition to LabelMemory, including the sums if
// its second argument is true.
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

// Writes the labels of all restarts, and the similarity unless it is null. Defined in assign.cu.
template <typename S>
void label_all(const Device& device, const Points<S>& points, int32_t* labels, typename Row<S>::T* similarity);

}  // namespace stylefast
