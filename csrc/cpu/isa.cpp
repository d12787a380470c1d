// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set of the CPU kernels, once per process, and reports its name to Python.
#include "../common/tensor.h"

#define STYLEFAST_KERNEL "simd.h"
#include "isa.h"

namespace stylefast {
namespace {

bool processor_has(Isa set) {
#if defined(STYLEFAST_X86)
  if (set == Isa::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && processor_has(Isa::kAvx2);
  }
  if (set == Isa::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return set == Isa::kPortable;
}

std::string name(Isa set) { return set == Isa::kAvx512 ? "avx512" : set == Isa::kAvx2 ? "avx2" : "portable"; }

Isa choose() {
  const char* forced = std::getenv("STYLEFAST_ISA");
  if (forced != nullptr && *forced == 0) forced = nullptr;  // an empty variable counts as unset
  std::string names;
  for (Isa set : {Isa::kAvx512, Isa::kAvx2, Isa::kPortable}) {
    if (forced == nullptr ? processor_has(set) : name(set) == forced) {
      STD_TORCH_CHECK(processor_has(set), "STYLEFAST_ISA is ", forced, ", which this processor lacks");
      return set;
    }
    names += " " + name(set);
  }
  STD_TORCH_CHECK(false, "STYLEFAST_ISA must be one of", names, ", got ", forced);
}

std::string instruction_set() { return name(isa()); }

}  // namespace

Isa isa() {
  static const Isa set = choose();
  return set;
}

}  // namespace stylefast

STABLE_TORCH_LIBRARY_IMPL(stylefast, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&stylefast::instruction_set));
}
