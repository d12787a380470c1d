# SPDX-License-Identifier: Apache-2.0
"""Copies and pickles of the objects that people keep give the same results and share nothing with the original."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from editors import catalog_of, editor_of
from jobs import files, grid, job
from miniatures import MINIATURES
from networks import hooks, shared
from torch import nn

from stylefast import SphericalKMeans
from stylefast.catalog import BuildOptions, Clustering
from stylefast.compat import FactorCatalog
from stylefast.editing import JobOptions, Pairs, SeedLatents, Sequential, StoredLatents
from stylefast.generators import Generator, load, wrap
from stylefast.generators.code_bases import FAMILIES
from stylefast.generators.toy import RULES, toy

ROOT = Path(__file__).parents[2]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved}


@pytest.fixture(params=COPIES)
def copied(request: pytest.FixtureRequest) -> Any:
    return COPIES[request.param]


def images(generator: Generator, w: torch.Tensor | None = None) -> torch.Tensor:
    w = generator.latents([0, 1]) if w is None else w
    return generator.synthesize(generator.styles(w), w)


def check_independent(original: Generator, other: Generator) -> None:
    """Check that a copy gives the same images, and that each of the two runs its own network."""
    expected, w = images(original), original.latents([0, 1])
    assert torch.equal(images(other), expected) and torch.equal(other.w_mean, original.w_mean)
    tensors = other.activations(w)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in original.activations(w).items())
    assert other.sites == original.sites and other.fingerprint == original.fingerprint
    with torch.no_grad():
        for x in other.network.parameters():
            x.mul_(1.25)
    assert torch.equal(images(original), expected)
    assert not torch.equal(other.latents([0, 1]), w) and not torch.equal(images(other, w), expected)


@pytest.mark.parametrize("name", ["toy:sg1", "toy:sg2", "toy:sg3"])
def test_copies_of_toys_are_independent(name: str, copied: Any):
    original = load(name)
    check_independent(original, copied(original))


@pytest.mark.parametrize("name", MINIATURES)
def test_deep_copies_of_wrapped_networks_are_independent(name: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        original = wrap(MINIATURES[name].build(), label=MINIATURES[name].label, **MINIATURES[name].options)
    check_independent(original, copy.deepcopy(original))


def test_rules_and_calls_of_all_code_bases_are_pickled():
    assert [family.name for family in pickled(FAMILIES)] == [family.name for family in FAMILIES]


def test_wrapped_networks_are_pickled(copied: Any):
    original = wrap(MINIATURES["hammer3"].build(), name="mine")
    check_independent(original, copied(original))


def test_a_copy_of_a_copy_is_a_copy(copied: Any):
    original = wrap(MINIATURES["lernapparat"].build())
    check_independent(original, copied(copied(original)))


def test_functions_may_be_partial_functions_of_the_network(copied: Any):
    network = toy("sg2").network
    functions = {"mapping": partial(network.mapping.forward), "synthesis": partial(nn.Module.__call__, network)}
    original = Generator(network, RULES["sg2"], name="partial", z_dim=32, **functions)
    check_independent(original, copied(original))


def test_a_copy_whose_synthesis_runs_the_original_is_refused():
    network = toy("sg2").network
    original = Generator(
        network,
        RULES["sg2"],
        name="x",
        z_dim=32,
        mapping=lambda z: network.mapping(z),
        synthesis=lambda w: network(w),
    )
    images(original)
    other = copy.deepcopy(original)
    w = other.latents([0])
    message = "synthesis must run the network of this generator, but it did not use site convs.0; in a copy"
    for run in (images, partial(Generator.activations, w=w), Generator.compile):
        with pytest.raises(RuntimeError, match=message):
            run(other)


def test_a_copy_of_a_compiled_generator_compiles_again(copied: Any):
    torch._dynamo.reset()
    original = load("toy:sg3") if copied is copy.deepcopy else wrap(MINIATURES["hammer3"].build())
    original.compile(2, backend="eager")
    expected, w = images(original), original.latents([0, 1])
    other = copied(original)
    assert torch.equal(images(other), expected)
    other_styles = other.styles(w.flip(0))
    swapped = other.synthesize(other_styles, w)
    assert torch.equal(images(original), expected)
    assert torch.equal(original.synthesize(other_styles, w), swapped) and not torch.equal(swapped, expected)
    with torch.no_grad():
        for x in other.network.parameters():
            x.mul_(1.25)
    assert not torch.equal(images(other, w), expected) and torch.equal(images(original), expected)
    other.compile(1, backend="eager")  # replaces the hooks of the copy
    assert hooks(other) == len(other.sites) == hooks(original)
    torch._dynamo.reset()


def test_networks_of_compiled_generators_are_copied(copied: Any):
    original = load("toy:sg2")
    w, expected = original.latents([0, 1]), images(original)
    original.compile(2, backend="eager")
    network = copied(original.network)
    with torch.no_grad():
        assert torch.equal((network(w) * 0.5 + 0.5).clamp(0, 1), expected)


def edits(editor: Any) -> torch.Tensor:
    w = editor.generator.latents([0, 1])
    return torch.cat([batch.images for batch in editor.edit(w, w.flip(0), "nose", measure=True, progress=False)])


def test_copies_of_editors_make_the_same_edits(copied: Any):
    original = editor_of("sg3", rgb=True, transform=0.5)
    other = copied(original)
    assert torch.equal(edits(other), edits(original)) and other.identity == original.identity
    assert other.generator is not original.generator and other.catalog is not original.catalog


def test_copies_of_catalogs_are_equal_and_independent(copied: Any):
    original = catalog_of("sg2")
    other = copied(original)
    assert repr(other) == repr(original) and other.sites == original.sites and other.provenance == original.provenance
    for name in ("centroids", "runs", "contributions", "occupancy"):
        assert torch.equal(getattr(other, name), getattr(original, name))
    other.check(shared("sg2"))
    other.annotate({"all": [0]})
    assert "all" not in original.parts


def test_copies_of_plans_list_the_same_edits(copied: Any, tmp_path: Path):
    generator = shared("sg2")
    (tmp_path / "a.csv").write_text("target,reference,part\n1,0,eyes\n2,0,nose\n")
    seeds = SeedLatents(generator, range(1, 4)), StoredLatents(generator, generator.latents([7]), names=["b"])
    pairs = Pairs(tmp_path / "a.csv", *seeds)
    editor_of("sg2").check(pairs)
    seeds[0].w(1)
    for plan in (grid(), grid(queries=[Sequential((1.0,) * 7)]), pairs):
        other = copied(plan)
        assert list(other) == list(plan) and list(map(other.name, other)) == list(map(plan.name, plan))
        assert torch.equal(other.targets.w(1), plan.targets.w(1)) and other.targets.row("seed0002") == 1
        assert torch.equal(other.references.styles(0), plan.references.styles(0))


def test_copies_of_jobs_write_the_same_files(copied: Any, tmp_path: Path):
    original = job(tmp_path / "a", measure=True)
    next(iter(original))  # fills the caches
    other = copied(original)
    other.directory = tmp_path / "b"
    for each in (original, other):
        assert len(list(each)) > 0
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_copies_of_options_are_equal(copied: Any):
    for value in (
        JobOptions(batch_size=3),
        Clustering(7),
        BuildOptions(workdir=Path("x")),
        Sequential(2.0),
        *RULES["sg1"],
    ):
        assert copied(value) == value


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_copies_of_estimators_predict_the_same(kind: str, copied: Any):
    points = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    data = torch.from_numpy(points) if kind == "tensor" else points
    original = SphericalKMeans(3, n_init=2).fit(data, progress=False)
    other = copied(original)
    assert (other.predict(data) == original.predict(data)).all()
    other.partial_fit(data), original.partial_fit(data)
    assert (other.centroids_ == original.centroids_).all()


def test_copies_of_factor_catalogs_are_equal(copied: Any):
    original = FactorCatalog(4, n_init=1)
    x = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    original.fit_predict(x, raw=True)
    assert torch.equal(copied(original).predict(x, raw=True).get(), original.predict(x, raw=True).get())


def test_a_fresh_process_reads_pickles(tmp_path: Path):
    """Workers that are spawned, such as those of a DataLoader, get their objects in this way."""
    editor = editor_of("sg2")
    wrapped = wrap(MINIATURES["nvlabs2"].build())
    expected = edits(editor), images(wrapped)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps((editor, wrapped, grid())))
    program = (
        "import pickle, sys, torch\n"
        "editor, wrapped, plan = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from test_copies import edits, images\n"
        "assert len(list(plan)) == 12\n"
        "torch.save((edits(editor), images(wrapped)), sys.argv[2])\n"
    )
    paths = (ROOT, ROOT / "tests/support", ROOT / "tests/package")
    environment = {"PYTHONPATH": ":".join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "a.pkl", tmp_path / "b.pt"], check=True, env=environment)
    for got, want in zip(torch.load(tmp_path / "b.pt"), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
