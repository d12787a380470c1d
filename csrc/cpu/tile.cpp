// SPDX-License-Identifier: Apache-2.0
// Compiles tile.kernel.h for every instruction set.
#define STYLEFAST_KERNEL "tile.kernel.h"
#include "isa.h"
