// SPDX-License-Identifier: Apache-2.0
// Inputs of the kernels that label: statistics of standardised planes, and centroids in the order of the kernels.
#pragma once

#include "label.cuh"

namespace stylefast {

template <typename S>
struct Prepared {
  Prepared(const Device& device, const Tensor& activations, const Tensor& centroids, Features features);

  Points<S> points;

 private:
  std::vector<Tensor> buffers_;  // the memory of points
};

// Shared memory of a block that labels.
struct Plan {
  int channels;         // of a tile that are held at a time
  bool sums_in_shared;  // whether the block's sums lie in shared memory, too
  int64_t shared;       // bytes
};

// Chooses the first that fits: all channels and the sums; all channels; as many channels as possible, in steps of 32.
// `take` reserves the memory that the kernel needs beside LabelMemory, with the sums if its second argument is true.
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

// Writes labels for all restarts, and similarity unless it is null. Defined in assign.cu.
template <typename S>
void label_all(const Device& device, const Points<S>& points, int32_t* labels, typename Row<S>::T* similarity);

}  // namespace stylefast
