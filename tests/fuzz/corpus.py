# SPDX-License-Identifier: Apache-2.0
"""Valid files of every format that the package reads, and their readers."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import checkpoint_files
import numpy as np
import torch
from editors import catalog_of, editor_of
from jobs import job, run
from networks import shared
from originals import Original
from safetensors import safe_open
from safetensors.torch import save_file

from stylefast import Catalog
from stylefast.catalog import BuildOptions, Clustering, read_clusters
from stylefast.editing import Pairs, SeedLatents, StoredLatents
from stylefast.editing.journal import journals
from stylefast.generators import load
from stylefast.generators.convert import convert
from stylefast.io.private import _with_hash
from stylefast.io.tensors import read_tensors
from stylefast.kmeans.lloyd import BatchedLloyd

FORMER = Path(__file__).parents[1] / "data" / "former"
KIND = "sg2"


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        file: Name of the file.
        write: Function that writes a valid file to a path.
        read: Function that reads the file at a path, and returns its contents.
        is_sealed: Whether a checksum covers all contents.
    """

    file: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    is_sealed: bool = False


def generator() -> Any:
    return shared(KIND)


@cache
def latents(n: int = 4) -> torch.Tensor:
    return generator().latents(range(n))


def _read_latents(path: Path) -> Any:
    images = StoredLatents.load(path, generator())
    return [(images.name(row), images.styles(row)) for row in range(len(images))]


def _read_catalog(path: Path) -> Any:
    catalog = Catalog.load(path)
    for part in filter(catalog.parts.get, catalog.parts):
        catalog.contribution(part)
    fields = ("generator", "layer", "features", "parts", "provenance", "sites")
    return [catalog.centroids, catalog.contributions, *(getattr(catalog, name) for name in fields)]


def _read_network(path: Path) -> Any:
    network = load(path)
    images = network.synthesize(network.styles(w := network.latents([0])), w)
    assert images.shape[0] == 1, f"one image must be drawn, got {tuple(images.shape)}"
    return network.network.state_dict()


def _write_workdir(path: Path) -> None:
    for file in (FORMER / "workdir").iterdir():
        shutil.copy(file, path.parent)


def _resume_build(path: Path) -> Any:
    """Resume the build whose workdir has the file."""
    clustering = Clustering(n_clusters=3, resolution=8, n_init=2)
    options = BuildOptions(batch_size=2, shard_images=3, workdir=path.parent, dtype="float16")
    w = torch.from_numpy(np.load(FORMER / "latents.npz")["w"])
    catalog = Catalog.build(load(FORMER / "network.safetensors"), w, clustering, options, progress=False)
    return [catalog.centroids, catalog.contributions]


def _read_checkpoint(path: Path) -> Any:
    state = BatchedLloyd.load(path, {}, torch.device("cpu"))
    return [state.centroids, state.active, *(vars(r) for r in state.runs)]


def _convert(path: Path) -> Any:
    convert(path, path.with_name("target.safetensors"))


def _read_pairs(path: Path) -> Any:
    """Check the lines of a list of edits with and without `skip_bad`, which must agree on whether all are right."""
    images = SeedLatents(generator(), range(4))
    skipping = Pairs(path, images, images, skip_bad=True)
    editor_of(KIND).check(skipping)
    assert len(list(skipping)) == len(skipping), "as many edits as counted must be listed"
    strict = Pairs(path, images, images)
    try:
        editor_of(KIND).check(strict)
    except ValueError:
        assert skipping.n_refused, "a list without refused lines must be valid"
        raise
    assert not skipping.n_refused, "a list with refused lines must be an error"
    return None


def _write_pairs(path: Path) -> None:
    lines = [("0", "1", "eyes", "2.5", "sequential"), ("2", "3", "nose", "", "softmax"), ("1", "0", "mouth", "1", "")]
    names = ("target", "reference", "part", "epsilon", "query")
    if path.suffix == ".csv":
        text = "\n".join(",".join(line) for line in [names, *lines])
    else:
        text = "\n".join(json.dumps({k: v for k, v in zip(names, line, strict=True) if v}) for line in lines)
    path.write_text(text + "\n", "utf-8")


def _resume(path: Path) -> Any:
    """Resume the job whose manifest or journal is mutated. It ends with an entry for each image, or not at all."""
    resumed = job(path.parent)
    for _ in resumed:
        pass
    entries = [json.loads(line) for line in (path.parent / "manifest.jsonl").read_text("utf-8").splitlines()]
    images = {image.name for image in path.parent.glob("*.png")}
    assert images <= {entry["file"] for entry in entries}, "every image must have an entry"
    assert all((path.parent / entry["file"]).exists() for entry in entries if entry["file"] in images)


def _write_journal(path: Path) -> None:
    """Write the journal of a job that stops after its first batch, under a name that does not change."""
    edits: Any = iter(job(path.parent))
    next(edits)
    edits.close()
    (journal,) = journals(path.parent)
    token, new_token = (file.name.split(".")[2] for file in (journal, path))
    path.write_text(journal.read_text("utf-8").replace(token, new_token), "utf-8")
    journal.unlink()


def _clusters(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2 + len(path.name) % 3))


def _legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def formats() -> list[Format]:
    w = latents()
    array, named = w.numpy(), {"ann.png": w[0], "bob.png": w[1]}
    state = {"latent_avg": w[0], "g_ema": {}, "latents": w}
    centers = {"cluster_centers_": np.eye(3, 5, dtype=np.float32), "counts_": [3, 2, 1], "annotations": {"eye": [0, 2]}}
    copy = partial(partial, shutil.copyfile)
    own = [
        Format("catalog.safetensors", catalog_of(KIND).save, _read_catalog, True),
        Format("network.safetensors", copy(FORMER / "network.safetensors"), _read_network),
        Format("kmeans.safetensors", copy(FORMER / "workdir" / "kmeans.safetensors"), _read_checkpoint),
        Format("former.safetensors", copy(FORMER / "catalog.safetensors"), _read_catalog),
        Format("converted.safetensors", _write_converted, _read_network, True),
        Format("activations-00000-of-00002.safetensors", _write_workdir, _resume_build),
        Format("contributions-00001-of-00002.safetensors", _write_workdir, _resume_build),
        Format("pairs.csv", _write_pairs, _read_pairs),
        Format("pairs.jsonl", _write_pairs, _read_pairs),
        Format("manifest.jsonl", lambda path: run(path.parent), _resume),
        Format(f"manifest.0001.{_with_hash('0' * 16)}.jsonl", _write_journal, _resume),
        Format("clusters.pkl", lambda path: _clusters(path, centers), read_clusters),
    ]
    stored: dict[str, Callable[[Path], Any]] = {
        "a.npy": lambda path: np.save(path, array),
        "b.npy": lambda path: np.save(path, np.asfortranarray(array.astype(">f8"))),
        "c.npy": lambda path: np.save(path, np.array(dict(zip("ab", array, strict=False)), dtype=object)),
        "a.npz": lambda path: np.savez(path, w=array),
        "b.npz": lambda path: np.savez_compressed(path, **dict(zip("ab", array, strict=False))),
        "a.pt": lambda path: torch.save(w, path),
        "b.pt": lambda path: torch.save(named, path),
        "c.pt": lambda path: torch.save(state, path),
        "d.pt": partial(_legacy, named),
        "a.pkl": lambda path: path.write_bytes(pickle.dumps({"w": array, "names": None})),
        "b.pkl": lambda path: path.write_bytes(pickle.dumps(array.tolist(), protocol=2)),
        "c.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip("ab", array, strict=False)), protocol=5)),
        "a.safetensors": lambda path: save_file({"w": w, "styles": generator().styles(w)}, path),
    }
    networks = {"nvlabs": "snapshot.pkl", "rosinality": "rosinality.pt", "genforce": "genforce.pth", "hammer": "c.pth"}
    return [
        *own,
        *(Format(name, write, _read_latents) for name, write in stored.items()),
        *(Format(file, partial(_write_network, family), _convert) for family, file in networks.items()),
    ]


def _write_network(family: str, path: Path) -> None:
    checkpoint_files.write(path, Original(family))


def _write_converted(path: Path) -> None:
    source = path.with_name("source.pkl")
    checkpoint_files.write(source, Original("nvlabs"))
    convert(source, path)
    source.unlink()


def read_header(path: Path) -> tuple[str, dict[str, torch.Tensor], dict[str, Any]]:
    """Return the format, the tensors and the header of an own file."""
    with safe_open(path, "pt") as file:
        (kind,) = file.metadata()
    return kind, *read_tensors(path, kind)
