# SPDX-License-Identifier: Apache-2.0
"""docs/compatibility.md has a row for every code base, with the modules by which it is recognised."""

import re
from pathlib import Path

import pytest
from miniatures import MINIATURES, miniature

from stylefast.generators.code_bases import FAMILIES
from stylefast.generators.code_bases.rosinality import ROSINALITY
from stylefast.generators.wrapping import wrap

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
ROWS = {row[1]: row for line in PAGE.splitlines() if len(row := [cell.strip() for cell in line.split("|")]) == 8}
SUPPORTED = [family for family in FAMILIES if not family.refusal]


def test_the_page_has_a_row_for_every_code_base():
    assert [*ROWS][:2] == ["code base", "---"] and {*[*ROWS][2:]} == {family.name for family in SUPPORTED}


@pytest.mark.parametrize("family", SUPPORTED, ids=lambda family: family.name)
def test_a_row_lists_the_modules_of_its_code_base(family):
    cell = ROWS[family.name][2]
    listed = set(re.findall(r"`([^`]+)`", cell))
    if "as rosinality" in cell:
        listed |= {name for known in ROSINALITY.modules for name in (known, f"generator.{known}")}
    assert listed >= set(family.modules)


def test_every_code_base_has_a_small_network_in_the_tests():
    names = {wrap(miniature(key), label=row.label, **row.options).name for key, row in MINIATURES.items()}
    assert names == {family.name for family in SUPPORTED}


def test_the_page_names_the_networks_that_are_refused():
    refused = PAGE.split("## Refused networks")[1]
    for word in ("VToonify", "GFPGANv1Clean", "backbone of EG3D", "variants of rosinality", "SWAGAN", "DualStyleGAN"):
        assert word in refused
    assert {family.name.split()[0] for family in FAMILIES if family.refusal} == {
        "VToonify",
        "GFPGAN",
        "backbone",
        "variant",
    }
