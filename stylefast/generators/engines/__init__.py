# SPDX-License-Identifier: Apache-2.0
"""Engines, which run synthesis from styles to images. All other methods of a generator run its network directly."""

from __future__ import annotations

from .engine import ENGINES, NAMES, EngineUse, default_batch_size
from .switch import EngineSwitch

__all__ = ["ENGINES", "NAMES", "EngineSwitch", "EngineUse", "default_batch_size"]
