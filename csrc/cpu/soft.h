// SPDX-License-Identifier: Apache-2.0
// M of memberships, which soft_contribution.cpp compiles for the ops that compute it.
#pragma once

#include "moments_op.h"
#include "resize.h"

namespace stylefast {

// Adds images in chunks, and returns M in the end.
template <typename S>
class SoftContribution {
  using T = typename Compute<S>::type;

 public:
  // At most `chunk` images are added at once.
  SoftContribution(const Tensor& activations, const Tensor& memberships, bool standardize, const std::string& resize,
                   bool per_image, int64_t chunk);

  // Adds images [begin, begin + count).
  void add(int64_t begin, int64_t count);

  Tensor finish();

 private:
  Contributions<T> output_from(int64_t begin) const;

  Tensor activations_, memberships_;
  int64_t clusters_, h_, w_;
  bool standardize_, same_size_, pools_;  // whether the layer is pooled onto the grid of the memberships
  Axis<T> y_, x_;
  ContributionOutput<T> output_;
  int64_t parts_;
  Contributions<T> sums_;
};

}  // namespace stylefast
