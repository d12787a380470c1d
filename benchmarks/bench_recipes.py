# SPDX-License-Identifier: Apache-2.0
"""Time the recipes. The code without and with the package runs alternately, after a check that the results agree.

Usage::

    python benchmarks/bench_recipes.py [--rounds 5] [--only codebook] [--record]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from types import CodeType

import environment
import record
import torch
from recipes import RECIPES, Names, Recipe
from timing import PAUSE, Figure, WrongResult, comparison
from torch.nn import functional as F
from tqdm import tqdm

import stylefast


def run(code: CodeType, names: Names) -> tuple[float, Names]:
    """Run the code; return its seconds and all names that exist afterwards."""
    namespace = dict(names)
    time.sleep(PAUSE)
    begin = time.perf_counter()
    exec(code, namespace)
    return time.perf_counter() - begin, namespace


def race(recipe: Recipe, threads: int) -> Figure:
    """Time a recipe and return its figure.

    Raises:
        WrongResult: If the results of the two versions of the code differ. Nothing is timed then.
    """
    names = {"torch": torch, "F": F, "stylefast": stylefast, "KMeans": environment.load("sklearn.cluster").KMeans}
    names |= recipe.make(recipe.images)
    before, after = (compile(text, recipe.title, "exec") for text in (recipe.before, recipe.after))
    try:
        recipe.agree(run(before, names)[1], run(after, names)[1])
    except WrongResult as error:
        raise WrongResult(f"{recipe.title}: {error}; nothing is timed") from None
    pairs = [(run(after, names)[0], run(before, names)[0]) for _ in tqdm(range(recipe.rounds), delay=2, leave=False)]
    seconds_after, seconds_before = zip(*pairs, strict=True)
    return comparison("recipe", recipe.title, None, threads, seconds_after, "before", seconds_before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="Rounds per recipe. Default: the number that the recipe sets.")
    parser.add_argument("--only", default="", help="Run only the recipes whose title contains this text.")
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for recipe in RECIPES:
        if arguments.only in recipe.title:
            rounds = arguments.rounds or recipe.rounds
            figure = race(replace(recipe, rounds=rounds), arguments.threads)
            print(record.line(figure), flush=True)
            if arguments.record:
                record.append(figure)


if __name__ == "__main__":
    main()
