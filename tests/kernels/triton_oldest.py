# SPDX-License-Identifier: Apache-2.0
"""Check the Triton kernels of a GPU with the installed version of Triton, which need not be the one of the table.

tests/kernels/triton_resources.json holds the binaries of one version of Triton, and other versions compile other ones.
`make oldest` checks with the oldest version that the kernels of the main workloads and of generator layers compile,
that they have no fault (see `triton_aot.faults`), and that the predicted shares of the bandwidth are about as high as
the stored ones::

    PYTHONPATH=benchmarks python tests/kernels/triton_oldest.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import roofline
import torch
import triton
from gpu.workloads import KEY_WORKLOADS, MAIN, GpuWorkload
from layers import LAYER_WORKLOADS
from triton_aot import faults, table_of

from stylefast.ops import LLOYD_STEP, SOFT_CONTRIBUTION

DEVICE = "sm_90"
# Each kernel with a loop is in one of them.
WORKLOADS = (
    *KEY_WORKLOADS,
    GpuWorkload(LLOYD_STEP, MAIN, torch.bfloat16, 128),
    GpuWorkload(LLOYD_STEP, MAIN, torch.float32, 32, features="standardized"),
    GpuWorkload(SOFT_CONTRIBUTION, MAIN, torch.bfloat16, 32),
    *LAYER_WORKLOADS,
)
LOSS = 0.0301  # how much lower than the stored share of the bandwidth a predicted one may be


def losses(predictions: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a message per prediction that is lower than the stored one by more than LOSS."""
    return [
        f"{name}: the predicted share of the copy bandwidth is {found['share']}, the stored one {stored[name]['share']}"
        for name, found in predictions.items()
        if found["share"] < stored[name]["share"] - LOSS
    ]


def main() -> int:
    resources = table_of(DEVICE, workloads=WORKLOADS)
    messages = faults(resources)
    messages += losses(roofline.predictions(resources), json.loads(roofline.PREDICTIONS.read_text()))
    result = f"{len(resources)} kernels compiled for {DEVICE} by Triton {triton.__version__}, {len(messages)} faults"
    print("\n".join([*messages, result]))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
