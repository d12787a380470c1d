# SPDX-License-Identifier: Apache-2.0
"""Code bases that `wrap` supports: names, modules that identify them, sites, and calling conventions."""

from . import lucidrains, nvlabs, rosinality
from .family import Family
from .genforce import (
    GENFORCE,
    GENFORCE_STYLEGAN1,
    GENFORCE_STYLEGAN2,
    HAMMER,
    HAMMER_STYLEGAN2,
    HAMMER_STYLEGAN3,
)
from .lernapparat import LERNAPPARAT
from .nvlabs import NVLABS_STYLEGAN2

__all__ = ["FAMILIES", "GENFORCE", "HAMMER", "LUCIDRAINS", "NVLABS_STYLEGAN2", "ROSINALITY", "Family"]

ROSINALITY = rosinality.NAME
LUCIDRAINS = lucidrains.NAME

FAMILIES = (  # a network belongs to the first that fits
    nvlabs.STYLEGAN2,
    nvlabs.STYLEGAN3,
    rosinality.ROSINALITY,
    GENFORCE_STYLEGAN1,
    GENFORCE_STYLEGAN2,
    HAMMER_STYLEGAN2,
    HAMMER_STYLEGAN3,
    lucidrains.LUCIDRAINS,
    LERNAPPARAT,
    rosinality.MMAGIC,
)
