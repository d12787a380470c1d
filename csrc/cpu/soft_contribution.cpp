// SPDX-License-Identifier: Apache-2.0
// soft_contribution on the CPU: M of memberships of the layer's own size or of another size.
#define STYLEFAST_KERNEL "soft_contribution.kernel.h"
#include "isa.h"
#include "soft.h"

namespace stylefast {

template <typename S>
SoftContribution<S>::SoftContribution(const Tensor& activations, const Tensor& memberships, bool standardize,
                                      const std::string& resize, bool per_image, int64_t chunk)
    : activations_(activations),
      memberships_(make_contiguous(memberships)),
      clusters_(memberships.size(1)),
      h_(memberships.size(2)),
      w_(memberships.size(3)),
      standardize_(standardize),
      same_size_(h_ == activations.size(2) && w_ == activations.size(3)),
      pools_(h_ * w_ < activations.size(2) * activations.size(3)),
      y_(resize_axis<T>(h_, activations.size(2), resize)),
      x_(resize_axis<T>(w_, activations.size(3), resize)),
      output_(activations, clusters_, per_image) {
  const int64_t c = activations.size(1), plane = activations.size(2) * activations.size(3);
  const int64_t work = 2 * clusters_ * std::min(h_ * w_, plane) + (pools_ ? 16 : 8) * plane;
  parts_ = parts_for(chunk * ((c + 15) / 16), chunk * c * work);
  sums_ = output_.allocate(parts_);
  if (sums_.sums != nullptr) std::fill(sums_.sums, sums_.sums + parts_ * clusters_ * sums_.stride, 0.0);
}

// Sums are those of all images; images that are written begin with image `begin`.
template <typename S>
Contributions<typename Compute<S>::type> SoftContribution<S>::output_from(int64_t begin) const {
  Contributions<T> output = sums_;
  if (output.images != nullptr) output.images += begin * clusters_ * activations_.size(1);
  return output;
}

template <typename S>
void SoftContribution<S>::add(int64_t begin, int64_t count) {
  const T* memberships = data<T>(memberships_) + begin * clusters_ * h_ * w_;
  const bool stays = STYLEFAST_PICK(stays_in_soft_sum<T>)(source(activations_));
  if (pools_ && !stays) {
    auto a = activations_view<S>(activations_);
    a.data += begin * a.stride_n;
    a.n = count;
    const SoftPoolTask<S> task{{a, standardize_, y_, x_}, memberships, clusters_, output_from(begin)};
    const auto kernel = STYLEFAST_PICK(soft_pool_kernel<S>);
    parallel(parts_, [&](int64_t part) { kernel(task, part, parts_); });
  } else {
    const Axis<T>*y = same_size_ ? nullptr : &y_, *x = same_size_ ? nullptr : &x_;
    const SoftTask<T> task{
        images(source(activations_), begin, count), memberships, clusters_, standardize_, y, x, output_from(begin)};
    const auto kernel = STYLEFAST_PICK(soft_kernel<T>);
    parallel(parts_, [&](int64_t part) { kernel(task, part, parts_); });
  }
}

template <typename S>
Tensor SoftContribution<S>::finish() {
  output_.reduce(parts_, activations_.size(0) * activations_.size(2) * activations_.size(3));
  return output_.tensor;
}

template class SoftContribution<double>;
template class SoftContribution<float>;
template class SoftContribution<half>;
template class SoftContribution<bfloat16>;

namespace {

// (activations [N,C,H,W], memberships [N,K,h,w], standardize, resize, per_image) -> M [K,C] or [N,K,C]
Tensor soft_contribution(const Tensor& activations, const Tensor& memberships, bool standardize,
                         const std::string& resize, bool per_image) {
  return dispatch(activations, [&](auto type) {
    const int64_t n = activations.size(0);
    SoftContribution<typename decltype(type)::type> soft(activations, memberships, standardize, resize, per_image, n);
    soft.add(0, n);
    return soft.finish();
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) {
  m.impl("soft_contribution_cpu", TORCH_BOX(&stylefast::soft_contribution));
}
