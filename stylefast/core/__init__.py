# SPDX-License-Identifier: Apache-2.0
"""Foundations that every other module may import: dtypes, checks of arguments, private names of torch."""
