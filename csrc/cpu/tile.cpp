// SPDX-License-Identifier: Apache-2.0
#define STYLEFAST_KERNEL "tile.kernel.h"
#include "isa.h"
