# SPDX-License-Identifier: Apache-2.0
"""Exit statuses of the stages and of their child processes."""

NO_GPU = 69  # a stage found no GPU: EX_UNAVAILABLE of sysexits.h
CUT = 75  # a stage ran out of time before its last row, without a failure: EX_TEMPFAIL
RUINED = 76  # the GPU context of a child process no longer works
