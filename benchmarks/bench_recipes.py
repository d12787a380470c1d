# SPDX-License-Identifier: Apache-2.0
"""The recipes of README.md: the code before and the code after in turn, once their results agree.

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
    """Runs the code; returns its seconds and all names afterwards."""
    namespace = dict(names)
    time.sleep(PAUSE)
    begin = time.perf_counter()
    exec(code, namespace)
    return time.perf_counter() - begin, namespace


def race(recipe: Recipe, threads: int) -> Figure:
    """The figure of a recipe. Raises WrongResult, before anything is timed, if before and after differ."""
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
    parser.add_argument("--rounds", type=int, help="rounds of every recipe; default: the number that each recipe sets")
    parser.add_argument("--only", default="", help="run the recipes whose title contains this")
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/<machine>.jsonl")
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
