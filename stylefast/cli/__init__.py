# SPDX-License-Identifier: Apache-2.0
"""The command line, which runs as `stylefast` or `python -m stylefast`."""

from .app import main

__all__ = ["main"]
