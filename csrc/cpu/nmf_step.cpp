// SPDX-License-Identifier: Apache-2.0
// nmf_step on the CPU: the positions are divided into parts with separate sums, which are then added in order.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "nmf_step.kernel.h"
#include "isa.h"
#include "prepare.h"

namespace stylefast {
namespace {

// (activations [N,C,H,W], components [K,C], sweeps) -> memberships [N,K,H,W], products [K,C], gram [K,K], energy []
std::tuple<Tensor, Tensor, Tensor, Tensor> nmf_step(const Tensor& activations, const Tensor& components,
                                                    int64_t sweeps) {
  return dispatch_computing(activations, [&](auto type) {
    using T = typename decltype(type)::type;
    const Source a = source(activations);
    const Tensor rows = make_contiguous(components);
    const int64_t k = rows.size(0), width = padded<T>(a.c), columns = padded<T>(k);
    const int64_t parts = parts_for((a.positions() + 31) / 32, (4 * a.c + 2 * k * (sweeps + 1)) * k * a.positions());
    const Prepared<T> prepared(a, Features::kRectified, rows);
    const Source points{{rows.const_data_ptr(), 1, a.c, 1, k, 0, 1, 0, a.c},
                        std::is_same_v<T, double> ? Element::kDouble : Element::kFloat};
    const Tensor memberships = empty<T>({a.n, k, a.h, a.w}, activations);
    const Tensor products = empty<double>({k, a.c}, activations), gram = empty<double>({k, k}, activations);
    const Tensor energy = empty<double>({}, activations);

    const Buffer<double> part_products(parts * k * width), part_gram(parts * k * columns), part_energy(parts);
    const FactorTask<T> task{prepared.points(),
                             {points, Features::kRaw, nullptr, prepared.centroids, k},
                             sweeps,
                             mutable_data<T>(memberships),
                             part_products,
                             part_gram,
                             part_energy};
    const auto kernel = STYLEFAST_PICK(nmf_kernel<T>);
    parallel(parts, [&](int64_t part) { kernel(task, part, parts); });

    reduce_parts<double>(part_products, parts, k, a.c, width, 1, mutable_data<double>(products));
    reduce_parts<double>(part_gram, parts, k, k, columns, 1, mutable_data<double>(gram));
    reduce_parts<double>(part_energy, parts, 1, 1, 1, 1, mutable_data<double>(energy));
    return std::make_tuple(memberships, products, gram, energy);
  });
}

}  // namespace
}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CPU, m) { m.impl("nmf_step_cpu", TORCH_BOX(&stylefast::nmf_step)); }
