# SPDX-License-Identifier: Apache-2.0
"""`repr` of catalogs, editors, image sources, plans and jobs: one line without the values of tensors."""

from __future__ import annotations

from pathlib import Path

from editors import editor_of
from networks import shared

from stylefast.editing import Grid, Job, Pairs, SeedLatents, Sequential, StoredLatents

CATALOG = "Catalog('toy:sg2', layer='torgbs.2', K=6, parts=['eyes', 'nose', 'mouth'])"
SEEDS = "SeedLatents('toy:sg2', seeds=[1, 2], truncation=1.0)"
STORED = "StoredLatents('toy:sg2', w=[2, 8, 32], names=['0', '1'])"
QUERY = "Sequential(epsilon=16.0, rho=None, fractional=False, share=0.55)"


def test_repr_is_one_line_without_tensors(tmp_path: Path):
    generator, editor = shared("sg2"), editor_of("sg2")
    seeds, stored = SeedLatents(generator, [1, 2]), StoredLatents(generator, generator.latents([1, 2]))
    grid = Grid(seeds, stored, "eyes")
    pairs = Pairs("pairs.csv", seeds, stored, query=Sequential(), strength=0.5)
    images = f"targets={SEEDS}, references={STORED}"
    grid_text = f"Grid({images}, parts=['eyes'], queries=[{QUERY}], strength=1.0)"
    assert repr(editor.catalog) == CATALOG
    assert repr(editor) == f"StyleEditor({CATALOG}, rgb=False, transform=0.0)"
    assert (repr(seeds), repr(stored)) == (SEEDS, STORED)
    assert repr(grid) == grid_text
    assert repr(pairs) == f"Pairs('pairs.csv', {images}, query={QUERY}, strength=0.5)"
    assert repr(Job(editor, grid, tmp_path)) == f"Job({str(tmp_path)!r}, {grid_text}, shard=(0, 1))"


def test_repr_of_many_images_is_short():
    generator = shared("sg2")
    assert "seeds=range(0, 4294967296)" in repr(SeedLatents(generator, range(1 << 32)))
    assert "seeds=[0, 1, 2, 3, 4, 5, ...]" in repr(SeedLatents(generator, list(range(100))))
    assert "names=['0', '1', '2', '3', '4', '5', ...]" in repr(StoredLatents(generator, generator.latents(range(9))))
