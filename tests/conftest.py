# SPDX-License-Identifier: Apache-2.0
"""Required backends, poisoned memory, two threads, reproducible hypothesis; and editors for all who ask for one."""

import ctypes
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported: a waiting thread sleeps, not spins
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs under deterministic algorithms

import pytest  # noqa: E402
import torch  # noqa: E402
from editors import editor_of  # noqa: E402
from hypothesis import settings  # noqa: E402

from stylefast.backends import available
from stylefast.editing import StyleEditor

EXAMPLES = 2 if os.environ.get("TRITON_INTERPRET") == "1" else 25  # Triton's interpreter takes a second for each
settings.register_profile("stylefast", derandomize=True, deadline=None, max_examples=EXAMPLES, database=None)
settings.load_profile("stylefast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="BACKEND",
        help="fail, instead of skipping its tests, if this backend cannot run here (repeatable)",
    )

    parser.addoption(
        "--first", default="", metavar="NAMES", help="run tests with these in their ids first, in this order"
    )
    parser.addoption("--shard", default="1/1", metavar="I/N", help="run the I-th of N shards of the tests")


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = [name for name in config.getoption("--first").split(",") if name]
    items.sort(key=lambda item: next((i for i, name in enumerate(names) if name in item.nodeid), len(names)))
    number, n_shards = map(int, config.getoption("--shard").split("/"))
    if n_shards == 1:
        return
    shards = [(i + i // n_shards) % n_shards + 1 for i in range(len(items))]  # skewed, so that no shard has one backend
    pairs = list(zip(items, shards, strict=True))
    config.hook.pytest_deselected(items=[item for item, shard in pairs if shard != number])
    items[:] = [item for item, shard in pairs if shard == number]


def pytest_configure(config: pytest.Config) -> None:
    for name in config.getoption("--require") or ():
        if name not in available():
            raise pytest.UsageError(f"--require must be one of {', '.join(available())}, got {name!r}")
        if (reason := available()[name]) is not None:
            raise pytest.UsageError(f"--require {name}: {reason}")
    torch.set_num_threads(2)
    poison_memory()


def poison_memory() -> None:
    """Makes what is read before it is written show: outputs are full of NaN, a kernel's own buffers of huge numbers."""
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's M_PERTURB: malloc fills with the complement of 0x80, 0x7F
        libc.mallopt(-6, 0x80)


@pytest.fixture(params=["sg1", "sg2", "sg3"])
def editor(request: pytest.FixtureRequest) -> StyleEditor:
    """One of each kind of toy network."""
    return editor_of(request.param)
