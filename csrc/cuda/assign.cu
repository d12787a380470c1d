// SPDX-License-Identifier: Apache-2.0
// assign on CUDA. Every block labels its tiles one after the other. Scores [N, K, H, W] are never written to global
// memory.
#include "prepare.cuh"

namespace stylefast {
namespace {

template <typename S, bool kRaw>
__global__ void __launch_bounds__(kThreads, 1)
    assign_kernel(Points<S> points, int channels, int32_t* labels, typename Row<S>::T* similarity) {
  Carver carver(shared_memory());
  const LabelMemory<S> memory(carver, channels);
  const int64_t plane = points.a.plane(), blocks = (plane + Row<S>::kPixels - 1) / Row<S>::kPixels;
  for (int64_t tile = blockIdx.x; tile < points.a.n * blocks; tile += gridDim.x) {
    const int64_t n = tile / blocks, first = tile % blocks * Row<S>::kPixels;
    label_tile<S, kRaw>(points, n, first, memory,
                        {labels, similarity, nullptr, n * plane + first, points.a.positions()});
  }
}

}  // namespace

template <typename S>
void label_all(const Device& device, const Points<S>& points, int32_t* labels, typename Row<S>::T* similarity) {
  const int64_t tiles = points.a.n * ((points.a.plane() + Row<S>::kPixels - 1) / Row<S>::kPixels);
  const Plan plan = stylefast::plan(device, points, [](Carver&, bool) {});
  const auto kernel = points.raw() ? assign_kernel<S, true> : assign_kernel<S, false>;
  const int64_t blocks = std::min(tiles, device.resident_blocks(kernel, kThreads, plan.shared));
  device.launch(kernel, {blocks, kThreads, plan.shared}, points, plan.channels, labels, similarity);
}

template void label_all(const Device&, const Points<float>&, int32_t*, float*);
template void label_all(const Device&, const Points<double>&, int32_t*, double*);
template void label_all(const Device&, const Points<half>&, int32_t*, float*);
template void label_all(const Device&, const Points<bfloat16>&, int32_t*, float*);

namespace {

// (activations [N,C,H,W], centroids [K,C], features) -> labels [N,H,W], similarity [N,H,W]
std::tuple<Tensor, Tensor> assign(const Tensor& activations, const Tensor& centroids, const std::string& features) {
  return dispatch(activations, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = typename Compute<S>::type;
    const Device device(activations);
    const Prepared<S> prepared(device, activations, centroids, parse_features(features));
    const View<S>& a = prepared.points.a;
    const Tensor labels = empty<int32_t>({a.n, a.h, a.w}, activations);
    const Tensor similarity = empty<T>({a.n, a.h, a.w}, activations);
    label_all(device, prepared.points, mutable_data<int32_t>(labels), mutable_data<T>(similarity));
    return std::make_tuple(labels, similarity);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CUDA, m) { m.impl("assign_cuda", TORCH_BOX(&stylefast::assign)); }
