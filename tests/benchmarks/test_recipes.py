# SPDX-License-Identifier: Apache-2.0
"""Tests of the recipes: the code before and after must give the same results; otherwise nothing is timed."""

from dataclasses import replace

import bench_recipes
import pytest
import torch
from recipes import RECIPES, Recipe, as_good, markdown, same
from timing import WrongResult


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title.split()[0].lower())
def test_code_before_and_after_gives_the_same_results(recipe: Recipe):
    fewer = recipe.before.replace("n_init=10", "n_init=1")
    figure = bench_recipes.race(replace(recipe, before=fewer, images=1, rounds=1), 1)
    assert (figure.op, figure.workload, figure.peer) == ("recipe", recipe.title, "before")
    assert figure.to_peer == figure.peers["before"] > 0


def test_code_with_different_results_is_not_timed():
    recipe = replace(RECIPES[2], images=1)
    with pytest.raises(WrongResult, match="Measure M from masks: M differs by 1.0e.00; nothing is timed"):
        bench_recipes.race(replace(recipe, after=recipe.after + "M = 2 * M"), 1)


def test_up_to_a_thousandth_of_the_labels_may_differ():
    labels = torch.arange(4000) % 20
    changed = labels.clone()
    changed[:4] += 1
    same("labels")({"labels": labels}, {"labels": changed})
    changed[4] += 1
    with pytest.raises(WrongResult, match="labels differs by 1.3e-03"):
        same("labels")({"labels": labels}, {"labels": changed})
    x = torch.nn.functional.one_hot(labels, 20).float().T[None, :, :, None]
    as_good({"labels": labels}, {"labels": 19 - labels, "activations": x})
    with pytest.raises(WrongResult, match="the mean cosine is 0.86"):
        as_good({"labels": labels}, {"labels": labels.clamp(max=15), "activations": x})


def test_every_recipe_is_shown_with_its_newest_ratio():
    records = [
        {"workload": recipe.title, "to_peer": ratio, "date": f"2026-01-0{day}"}
        for recipe in RECIPES
        for day, ratio in ((2, 4.25), (1, 9.0))
    ]
    text = markdown(records)
    assert text.count("Speed-up: 4.2x, for") == len(RECIPES) == text.count("# before") == text.count("# after")
    assert "labels, similarity = stylefast.assign(activations, centroids)\n```" in text
