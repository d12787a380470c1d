// SPDX-License-Identifier: Apache-2.0
// assign_soft_contribution on the CPU. Images are labelled and measured in chunks that stay in the last-level cache, so
// that memory is read once unless an image is larger than the cache.
#define STYLEFAST_KERNEL "assign.kernel.h"
#include "isa.h"
#include "prepare.h"
#include "soft.h"

namespace stylefast {
namespace {

constexpr int64_t kChunkBytes = 8 << 20;

// Labels the images of a chunk.
template <typename T>
void assign_chunk(const Source& a, Features features, const Tensor& centroids, int32_t* labels, T* similarity) {
  const Prepared<T> prepared(a, features, centroids);
  const AssignTask<T> task{prepared.points(), labels, similarity};
  const int64_t parts = parts_for((a.positions() + 31) / 32, 2 * (prepared.clusters + 1) * a.c * a.positions());
  const auto kernel = STYLEFAST_PICK(assign_kernel<T>);
  parallel(parts, [&](int64_t part) { kernel(task, part, parts); });
}

// (activations [N,C,H,W], centroids [K,C], memberships [N,K',h,w], features, standardize, per_image)
// -> labels [N,H,W], M [K',C] or [N,K',C]
std::tuple<Tensor, Tensor> assign_soft_contribution(const Tensor& activations, const Tensor& centroids,
                                                    const Tensor& memberships, const std::string& features,
                                                    bool standardize, bool per_image) {
  return dispatch(activations, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = typename Compute<S>::type;
    const Source a = source(activations);
    const Features kind = parse_features(features);
    const Tensor rows = make_contiguous(centroids), labels = empty<int32_t>({a.n, a.h, a.w}, activations);
    const int64_t image_bytes = a.c * a.plane() * a.element_size();
    const int64_t chunk = std::min(a.n, std::max<int64_t>(1, kChunkBytes / image_bytes));
    const Buffer<T> similarity(chunk * a.plane());
    SoftContribution<S> soft(activations, memberships, standardize, "bilinear", per_image, chunk);
    for (int64_t begin = 0; begin < a.n; begin += chunk) {
      const int64_t count = std::min(chunk, a.n - begin);
      assign_chunk<T>(images(a, begin, count), kind, rows, mutable_data<int32_t>(labels) + begin * a.plane(),
                      similarity);
      soft.add(begin, count);
    }
    return std::make_tuple(labels, soft.finish());
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) {
  m.impl("assign_soft_contribution_cpu", TORCH_BOX(&stylefast::assign_soft_contribution));
}
