# SPDX-License-Identifier: Apache-2.0
"""Catalogs: building and annotating them, and reading the clusters that other tools pickled."""

from .catalog import Catalog
from .latents import LatentBatches
from .options import BuildOptions, Clustering
from .pickled import read_clusters
from .regions import FFHQ_REGIONS, Region

__all__ = ["FFHQ_REGIONS", "BuildOptions", "Catalog", "Clustering", "LatentBatches", "Region", "read_clusters"]
