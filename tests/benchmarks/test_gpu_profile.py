# SPDX-License-Identifier: Apache-2.0
"""Tests of how the stage `profile` reads the table of Nsight Compute."""

from __future__ import annotations

from gpu import profile

CAUSES = ("long_scoreboard", "barrier", "wait", "math_pipe_throttle")
NCU = f"""==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum","lts__t_bytes.sum","launch__registers_per_thread","{
    '","'.join(f"{profile.STALL}{cause}_per_issue_active.ratio" for cause in CAUSES)
}"
"","","ns","byte","register/thread","inst","inst","inst","inst"
"0","lloyd_kernel<bf16>(int)","1,234,000","5e3","168","1.5","4.25","0.1","2"
"1","join_kernel","2000","","40","0","0","0","0"
"""


def test_counters_are_read_by_name():
    first, second = profile.counted(NCU)
    stalls = first.pop("stalls")
    assert first == {"kernel": "lloyd_kernel<bf16>(int)", "time": 1234000, "l2": 5000, "registers": 168}
    assert list(stalls.items()) == [("barrier", 4.25), ("math_pipe_throttle", 2), ("long_scoreboard", 1.5)]
    assert second == {"kernel": "join_kernel", "time": 2000, "registers": 40, "stalls": {}}


def test_refused_counters_give_no_kernels():
    assert list(profile.counted("==ERROR== ERR_NVGPUCTRPERM - no permission\n")) == []
    assert list(profile.counted("")) == []
