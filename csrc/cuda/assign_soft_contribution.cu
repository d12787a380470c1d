// SPDX-License-Identifier: Apache-2.0
// assign_soft_contribution on CUDA: labels, and then M from memberships. Each of both reads the activations.
#include "prepare.cuh"
#include "soft.cuh"

namespace stylefast {
namespace {

// (activations [N,C,H,W], centroids [K,C], memberships [N,K',h,w], features, standardize, per_image)
//   -> labels [N,H,W], M [K',C] or [N,K',C]
std::tuple<Tensor, Tensor> assign_soft_contribution(const Tensor& activations, const Tensor& centroids,
                                                    const Tensor& memberships, const std::string& features,
                                                    bool standardize, bool per_image) {
  return dispatch(activations, [&](auto type) {
    using S = typename decltype(type)::type;
    const Device device(activations);
    const Prepared<S> prepared(device, activations, centroids, parse_features(features));
    const View<S>& a = prepared.points.a;
    const Tensor labels = empty<int32_t>({a.n, a.h, a.w}, activations);
    label_all<S>(device, prepared.points, mutable_data<int32_t>(labels), nullptr);
    return std::make_tuple(
        labels, soft_contribute<S>(device, activations, contiguous(memberships), standardize, true, per_image));
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) {
  m.impl("assign_soft_contribution_cuda", TORCH_BOX(&stylefast::assign_soft_contribution));
}
