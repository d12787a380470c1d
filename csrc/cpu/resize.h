// SPDX-License-Identifier: Apache-2.0
// Resize of a grid to the size of a layer.
#pragma once

#include "../common/tensor.h"
#include "tasks.h"

namespace stylefast {

// Returns the weights of torch.nn.functional.interpolate(align_corners=False) from `cells` to `size` along one axis.
template <typename T>
Axis<T> resize_axis(int64_t cells, int64_t size, const std::string& resize) {
  STD_TORCH_CHECK(resize == "bilinear" || resize == "nearest", "unknown resize ", resize);
  const bool bilinear = resize == "bilinear";
  Axis<T> axis(cells, size);
  const int64_t last = axis.cells - 1;
  const double step = static_cast<double>(axis.cells) / static_cast<double>(size);
  std::fill(axis.area + 0, axis.area + axis.cells, T(0));
  for (int64_t i = 0; i < size; ++i) {
    if (bilinear) {
      const double source = std::max(0.0, (static_cast<double>(i) + 0.5) * step - 0.5);
      axis.low[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(source), last));
      axis.high[i] = static_cast<int32_t>(std::min<int64_t>(axis.low[i] + 1, last));
      axis.weight[i] = static_cast<T>(source - axis.low[i]);
    } else {  // in float, as in torch
      const float source = static_cast<float>(i) * (static_cast<float>(axis.cells) / static_cast<float>(size));
      axis.low[i] = axis.high[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(source), last));
      axis.weight[i] = 0;
    }
    if (axis.low[i] == axis.high[i]) axis.weight[i] = 0;
    axis.area[axis.low[i]] += 1 - axis.weight[i];
    axis.area[axis.high[i]] += axis.weight[i];
  }
  return axis;
}

}  // namespace stylefast
