# SPDX-License-Identifier: Apache-2.0
"""The GPU stages. `benchmarks/gpu.sh --help` lists them."""
