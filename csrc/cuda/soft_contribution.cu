// SPDX-License-Identifier: Apache-2.0
// soft_contribution on CUDA, for memberships of any size.
#include "soft.cuh"

namespace stylefast {
namespace {

template <typename S, bool kPooled>
Tensor launch_soft(const Device& device, const View<S>& a, const Tensor& memberships, bool standardize,
                   bool per_image) {
  using T = typename Row<S>::T;
  Carver carver(nullptr);
  SoftMemory<S>{carver};
  SoftTask<S> task{a, data<T>(memberships), memberships.size(1), standardize, per_image, 0, 0, 0, nullptr};
  task.slices = (a.c + kSlice - 1) / kSlice, task.parts = (task.clusters + kPart - 1) / kPart;
  const auto kernel = soft_kernel<S, kPooled>;
  const int64_t resident = device.resident_blocks(kernel, kSlice, carver.bytes());
  task.groups = std::min(a.n, std::max<int64_t>(1, resident / (task.slices * task.parts)));
  const Tensor contributions = empty<T>({per_image ? a.n : task.groups, task.clusters, a.c}, memberships);
  task.contributions = mutable_data<T>(contributions);
  device.launch(kernel, {task.slices * task.parts * task.groups, kSlice, carver.bytes()}, task);
  return per_image ? contributions : mean_of_groups<T>(device, contributions, a.n);
}

}  // namespace

// If the grids differ, M of one cluster per cell gives the energies of the cells, of which each membership takes its
// share, because M is linear in the memberships.
template <typename S>
Tensor soft_contribute(const Device& device, const Tensor& activations, const Tensor& memberships, bool standardize,
                       bool bilinear, bool per_image) {
  using T = typename Row<S>::T;
  const View<S> a = view<S>(activations);
  const int64_t h = memberships.size(2), w = memberships.size(3), cells = h * w;
  if (h == a.h && w == a.w) return launch_soft<S, false>(device, a, memberships, standardize, per_image);
  const LabelGrid grid(nullptr, h, w, activations, bilinear);
  const Tensor pooled = contribute<S>(device, activations, grid, cells, standardize, true);  // [N, h w, C]
  const View<T> energies{{data<T>(pooled), a.n, a.c, h, w, cells * a.c, 1, w * a.c, a.c},
                         a.c % Row<T>::kVector == 0 ? Load::kChannels : Load::kElements};
  return launch_soft<T, true>(device, energies, memberships, standardize, per_image);
}

template Tensor soft_contribute<float>(const Device&, const Tensor&, const Tensor&, bool, bool, bool);
template Tensor soft_contribute<double>(const Device&, const Tensor&, const Tensor&, bool, bool, bool);
template Tensor soft_contribute<half>(const Device&, const Tensor&, const Tensor&, bool, bool, bool);
template Tensor soft_contribute<bfloat16>(const Device&, const Tensor&, const Tensor&, bool, bool, bool);

namespace {

// (activations [N,C,H,W], memberships [N,K,h,w], standardize, resize, per_image) -> M [K,C] or [N,K,C]
Tensor soft_contribution(const Tensor& activations, const Tensor& memberships, bool standardize,
                         const std::string& resize, bool per_image) {
  STD_TORCH_CHECK(resize == "bilinear" || resize == "nearest", "unknown resize ", resize);
  return dispatch(activations, [&](auto type) {
    return soft_contribute<typename decltype(type)::type>(Device(activations), activations, contiguous(memberships),
                                                          standardize, resize == "bilinear", per_image);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) {
  m.impl("soft_contribution_cuda", TORCH_BOX(&stylefast::soft_contribution));
}
