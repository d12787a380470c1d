# SPDX-License-Identifier: Apache-2.0
"""Forked processes compute, even if their parent has used OpenMP threads."""

import sys

import pytest
from forked import printed

SCRIPT = """
import multiprocessing, os
import torch, stylefast

torch.set_num_threads(2)
side = int(os.environ["SIDE"])
fork = multiprocessing.get_context("fork")
a, c = torch.randn(4, 16, side, side), torch.randn(5, 16)
labels = torch.zeros(4, side, side, dtype=torch.int64)
calls = {
    "torch": lambda: (a * 2).relu().sum(),
    "assign": lambda: stylefast.assign(a, c, features="standardized").labels.sum(),
    "lloyd_step": lambda: stylefast.lloyd_step(a, c).sums.sum(),
    "contribution": lambda: stylefast.contribution(a, labels, 5).sum(),
    "pooled": lambda: stylefast.contribution(a, labels[:, :4, :4], 5).sum(),
    "both": lambda: stylefast.assign_contribution(a, c).contribution.sum(),
    "blend": lambda: stylefast.blend(a.flatten(1), a.flatten(1), a[0].flatten()).sum(),
}
for name, call in calls.items():
    torch.randn(1000, 1000).exp()  # starts the threads of the parent
    expected = None if name == "assign" else float(call())  # the first call of a kernel is in a child
    child = fork.Process(target=lambda: print(name, expected in (None, float(call())), flush=True))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        print(name, "hangs", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU OpenMP loses its threads")
@pytest.mark.parametrize("side", [8, 96])
def test_forked_processes_compute_the_same(side: int):
    lines = printed(SCRIPT, SIDE=str(side))
    assert len(lines) == 7 and all(line.endswith(" True") for line in lines), lines
