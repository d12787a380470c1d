// SPDX-License-Identifier: Apache-2.0
// Compiles score.kernel.h for every instruction set.
#define STYLEFAST_KERNEL "score.kernel.h"
#include "isa.h"
