# SPDX-License-Identifier: Apache-2.0
"""The leaf that every other module may import: dtypes, checks of arguments, private names of torch."""
