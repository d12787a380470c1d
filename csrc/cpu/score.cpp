// SPDX-License-Identifier: Apache-2.0
#define STYLEFAST_KERNEL "score.kernel.h"
#include "isa.h"
