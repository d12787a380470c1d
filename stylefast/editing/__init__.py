# SPDX-License-Identifier: Apache-2.0
"""Local edits: plans of edits, the editor that checks and renders them, and jobs that write them to disk."""

from .editor import StyleEditor
from .job import Job
from .options import JobOptions
from .pairs import Pairs
from .plan import Edit, Grid, Plan
from .renderer import EditBatch, EditRenderer
from .sources import ImageSource, SeedLatents, StoredLatents
from .strategies import Random, Sequential, Simultaneous, Softmax, Strategy

__all__ = [
    "Edit",
    "EditBatch",
    "EditRenderer",
    "Grid",
    "ImageSource",
    "Job",
    "JobOptions",
    "Pairs",
    "Plan",
    "Random",
    "SeedLatents",
    "Sequential",
    "Simultaneous",
    "Softmax",
    "StoredLatents",
    "Strategy",
    "StyleEditor",
]
