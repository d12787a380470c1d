# SPDX-License-Identifier: Apache-2.0
"""Test configuration: what is required, order and shards, poisoned memory, two threads, reproducible Hypothesis."""

import ctypes
import os
from collections.abc import Iterator
from typing import Any

# OpenMP reads this when torch is imported: waiting threads sleep instead of spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# cuBLAS needs this for deterministic algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# typer reads this when it is imported: without it, typer prints escape sequences on hosted CI.
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"

import browsers  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from editors import editor_of  # noqa: E402
from hypothesis import settings  # noqa: E402
from interpreter import patch_language_once  # noqa: E402
from networks import shared  # noqa: E402

from stylefast.backends import available
from stylefast.backends.triton import INTERPRETED
from stylefast.editing import StyleEditor

# Triton's interpreter takes a second per example.
EXAMPLES = 2 if INTERPRETED else 25
settings.register_profile("stylefast", derandomize=True, deadline=None, max_examples=EXAMPLES, database=None)
settings.load_profile("stylefast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help="fail if this backend, or the browser, cannot run here, instead of skipping its tests (repeatable)",
    )
    parser.addoption(
        "--first",
        default="",
        metavar="NAMES",
        help="run the tests whose ids contain one of these comma-separated names first, in this order",
    )
    parser.addoption("--shard", default="1/1", metavar="I/N", help="run only the I-th of N shards of the tests")


@pytest.hookimpl(trylast=True)  # after the selections of -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = [name for name in config.getoption("--first").split(",") if name]
    items.sort(key=lambda item: next((i for i, name in enumerate(names) if name in item.nodeid), len(names)))
    number, n_shards = map(int, config.getoption("--shard").split("/"))
    if n_shards == 1:
        return
    # Consecutive tests cycle through the backends: the shift of i // n_shards gives every shard tests of all backends.
    shards = [(i + i // n_shards) % n_shards + 1 for i in range(len(items))]
    pairs = list(zip(items, shards, strict=True))
    config.hook.pytest_deselected(items=[item for item, shard in pairs if shard != number])
    items[:] = [item for item, shard in pairs if shard == number]


def pytest_configure(config: pytest.Config) -> None:
    reasons = available() | {"browser": browsers.missing()}
    for name in config.getoption("--require") or ():
        if name not in reasons:
            raise pytest.UsageError(f"--require must be one of {', '.join(reasons)}, got {name!r}")
        if (reason := reasons[name]) is not None:
            raise pytest.UsageError(f"--require {name}: {reason}")
    torch.set_num_threads(2)
    if INTERPRETED and reasons["triton"] is None:
        patch_language_once()
    poison_memory()


def poison_memory() -> None:
    """Fill new outputs with NaN and kernel buffers with huge numbers, so that tests notice reads before writes."""
    # torch.empty then returns NaN. torch.use_deterministic_algorithms would import torch._inductor, for a second.
    torch.set_deterministic_debug_mode("error")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-6, 0x80)  # M_PERTURB of glibc: malloc fills memory with the complement of 0x80, which is 0x7F


@pytest.fixture(params=["sg1", "sg2", "sg3"])
def editor(request: pytest.FixtureRequest) -> StyleEditor:
    """Editor of a toy network: StyleGAN1, StyleGAN2 or StyleGAN3."""
    return editor_of(request.param)


@pytest.fixture(scope="session")
def profile() -> Iterator[Any]:
    """The profile of a headless Chromium. It keeps compiled scripts, which `browser.new_context()` does not."""
    if (reason := browsers.missing()) is not None:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = {"executable_path": browsers.program(), "args": browsers.arguments()}
        context = playwright.chromium.launch_persistent_context("", **options)  # in a temporary folder
        yield context
        context.close()


@pytest.fixture(scope="session")
def browser(profile: Any) -> Any:
    """A headless Chromium."""
    return profile.browser


@pytest.fixture(autouse=True)
def shared_networks_run_eagerly() -> Iterator[None]:
    """Fail a test that leaves another engine to the networks that it shares with other tests."""
    yield
    for kind in ("sg1", "sg2", "sg3"):
        assert shared(kind).engine.name == "eager"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the processes of tests do: torch's convolutions round differently with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
