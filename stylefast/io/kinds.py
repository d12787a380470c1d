# SPDX-License-Identifier: Apache-2.0
"""Kinds of files by their first and last bytes, so that an error can say what a file is and what to do with it."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from .atomic import PathLike
from .budget import check_file

HEAD = 1 << 16  # bytes at the start of a file that are searched
_TABLE_MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # last bytes of a TensorFlow .index file
_PAGE = rb"""(?isx) (\xef\xbb\xbf)? \s* ((<\?xml[^>]*> | <!--((?!-->).)*-->) \s*)*
    <(!doctype\ html | html | head | body | title | meta | script)"""
_DOWNLOAD = "the server did not send the file, so download it again in a browser or by its direct address"
_UNPACK = "unpack it and give the file inside"
_TENSORFLOW = (
    "only StyleGAN pickles of TensorFlow can be converted; load it in its code base and save the latents or network"
)

Wanted: TypeAlias = Literal["latents", "catalog", "network", "checkpoint", "clusters"]
_NAMES: dict[Wanted, str] = {
    "latents": "latents",
    "catalog": "a catalog",
    "network": "a network",
    "checkpoint": "a checkpoint of a network",
    "clusters": "a pickle with clusters",
}
# Kinds that a reader can read; for every other known kind it gives a reason before it reads.
_READABLE: dict[Wanted, frozenset[str]] = {
    "latents": frozenset({"npy", "npz", "torch", "pickle", "safetensors"}),
    "catalog": frozenset({"catalog"}),
    "network": frozenset({"network", "wheel"}),
    "checkpoint": frozenset({"torch", "pickle", "nvlabs", "tensorflow"}),
    "clusters": frozenset({"pickle"}),
}


class Kind(NamedTuple):
    """Kind of a file.

    Attributes:
        name: Short name.
        text: Noun phrase for error messages.
        hint: What to do if this kind of file is given where another kind is expected.
        pattern: Regular expression of the first bytes.
    """

    name: str
    text: str
    hint: str
    pattern: bytes = rb"(?!)"


_EMPTY = Kind("empty", "an empty file", "copy or download it again")
_CUT = Kind("cut", "a zip archive that is cut off or damaged", "copy or download it again")
_IMAGES = rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|(?s:RIFF....WEBP)|II\*\x00|MM\x00\*"
_TF_NAMES = rb"(?s)(\x80|[c(]).*(dnnlib\.tflib\.network|\btfutil\n)"
_CONVERT = "convert it with `stylefast convert`, and give the result as the network"
_KINDS = (
    Kind("html", "a web page", _DOWNLOAD, _PAGE),
    Kind("lfs", "a Git LFS pointer", "the file that it stands for comes with `git lfs pull`", rb"version https?://git-lfs"),
    Kind("ir", "the graph of an OpenVINO network", "it cannot be converted", rb"\s*<\?xml[^>]*>\s*<net "),
    Kind("xml", "an XML page, such as the error message of a server", _DOWNLOAD, rb"(\xef\xbb\xbf)?\s*<\?xml"),
    Kind("gzip", "a gzip archive", _UNPACK, rb"\x1f\x8b"),
    Kind("bzip2", "a bzip2 archive", _UNPACK, rb"BZh[1-9]1AY&SY"),
    Kind("xz", "an xz archive", _UNPACK, rb"\xfd7zXZ\x00"),
    Kind("zstd", "a zstd archive", _UNPACK, rb"\x28\xb5\x2f\xfd"),
    Kind("7z", "a 7z archive", _UNPACK, rb"7z\xbc\xaf\x27\x1c"),
    Kind("rar", "a rar archive", _UNPACK, rb"Rar!\x1a\x07"),
    Kind("tar", "a tar archive", _UNPACK, rb"(?s).{257}ustar"),
    Kind("hdf5", "an HDF5 file of Keras or h5py", "load it with h5py and save arrays with np.savez", rb"\x89HDF\r\n"),
    Kind("image", "an image", "a projector or encoder of the network computes latents of images", _IMAGES),
    Kind("video", "a video", "give the file that is named in the documentation of the network", rb"(?s:....ftyp)"),
    Kind("pdf", "a PDF document", "give the file that the document describes", rb"%PDF-"),
    Kind("onnx", "an ONNX graph", "give the checkpoint behind it", rb"(?s)\x08[\x01-\x20]\x12.{1,32}(torch|onnx)"),
    Kind("tfcheckpoint", "a TensorFlow checkpoint", _TENSORFLOW, rb"model_checkpoint_path:"),
    Kind("tensorflow", "a TensorFlow pickle of StyleGAN", _CONVERT, _TF_NAMES),
    Kind("nvlabs", "a pickled network of NVlabs", _CONVERT, rb"(?s)\x80[\x02-\x05].*torch_utils\.persistence"),
    Kind("npy", "an array of NumPy", "", rb"\x93NUMPY"),
    Kind("torch", "a file of torch.save", "", rb"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"),
    Kind("pickle", "a pickle", "", rb"\x80[\x00-\x05]|\(?[dl](p\d|q|\()|\(?[}\]]q|c[A-Za-z_][\w.]*\n\w[\w.]*\n"),
    Kind("json", "a JSON file", "", rb"\s*(\{\s*[\"}]|\[\s*[\[\{\"\d\]-])"),
)  # fmt: skip
_NETWORK = Kind("network", "a converted network", "give it as the network (--network)")
_OWN = {
    "catalog": Kind("catalog", "a catalog", "give it as the catalog (--catalog)"),
    "shard": Kind("state", "the state of a build in a --workdir", "give the catalog that the build writes with --out"),
    "kmeans": Kind("state", "the checkpoint of k-means", "give the catalog that the build writes with --out"),
}
# What to do with a file of a kind that another reader takes.
_HINTS: dict[tuple[str, Wanted], str] = {
    ("npz", "network"): "if these are latents, give them as the images (--seeds or --references)",
    ("npy", "network"): "if these are latents, give them as the images (--seeds or --references)",
    ("torch", "network"): _CONVERT,
    ("pickle", "network"): _CONVERT,
    ("network", "checkpoint"): "it needs no conversion: give it as the network (--network)",
    ("pickle", "catalog"): "a catalog of other tools is given to `stylefast catalog build --centroids`",
    ("nvlabs", "latents"): _CONVERT,
}
_DEFAULT_HINTS: dict[Wanted, str] = {
    "latents": "latents are .npz, .npy, .pt, .pth, .pkl or .safetensors files",
    "catalog": "`stylefast catalog build` writes catalogs",
    "network": "`stylefast convert` writes networks",
    "checkpoint": "networks are converted from the .pkl, .pt or .pth files of their code bases",
    "clusters": "clusters are read from the pickle of a k-means of scikit-learn or of a catalog",
}


def sniff(path: PathLike) -> Kind | None:
    """Return the kind of a file, or None if it is unknown.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is a folder, a pipe, a socket or a device.
    """
    size = check_file(path)
    with open(path, "rb") as file:
        head = file.read(min(size, HEAD))
        file.seek(max(0, size - len(_TABLE_MAGIC)))
        tail = file.read(len(_TABLE_MAGIC))
    if not head:
        return _EMPTY
    name = os.path.basename(os.fspath(path))
    if tail == _TABLE_MAGIC or re.search(r"\.(index|meta|data-\d{5}-of-\d{5}|pb)$", name):
        return Kind("tfcheckpoint", "a file of a TensorFlow checkpoint", _TENSORFLOW)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _sniff_zip(path)
    if size > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 40:
        return _sniff_safetensors(head)
    if head.count(0) == len(head):
        return Kind("zeros", "a file of zeros, as an interrupted download leaves it", "copy or download it again")
    for kind in _KINDS:
        if re.match(kind.pattern, head):
            return kind
    if name.endswith(".onnx"):
        return next(kind for kind in _KINDS if kind.name == "onnx")
    is_text = not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head) and b" " in head.strip()
    return Kind("text", "a text file", "") if is_text else None


def refusal(path: PathLike, wanted: Wanted) -> str | None:
    """Return the reason why a file is not what a reader expects, and what to do; or None if it may be.

    Args:
        path: Path of the file.
        wanted: Expected contents.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is a folder, a pipe, a socket or a device.
    """
    kind = sniff(path)
    if kind is None or kind.name in _READABLE[wanted]:
        return None
    hint = _HINTS.get((kind.name, wanted)) or kind.hint or _DEFAULT_HINTS[wanted]
    if hint == _CONVERT:
        source = Path(path)
        hint = hint.replace("convert`", f"convert {source.name} {source.stem}.safetensors`")
    return f"it is {kind.text}, not {_NAMES[wanted]}; {hint}"


def _sniff_zip(path: PathLike) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return _CUT
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last:
        if "constants.pkl" in last:
            return Kind("torchscript", "a TorchScript program", "give the checkpoint from which it was made")
        return Kind("torch", "a file of torch.save", "")
    if names and all(name.endswith(".npy") for name in names):
        if any(re.search(r"/(W|b|beta|gamma)\.npy$", name) for name in names):
            return Kind("chainer", "a file of Chainer weights", "networks of Chainer cannot be converted")
        return Kind("npz", "a file of NumPy arrays", "")
    if any(".dist-info/" in name for name in names):
        return Kind("wheel", "a Python wheel", "")
    if "model.weights.h5" in last:
        return Kind("keras", "a Keras model", "networks of Keras cannot be converted")
    first = ", ".join(name[:60] for name in names[:2]) or "nothing"
    return Kind("zip", f"a zip archive with {first}{', ...' if len(names) > 2 else ''}", _UNPACK)


def _sniff_safetensors(head: bytes) -> Kind:
    own = re.search(rb'"stylefast-([a-z]+)[a-z0-9]*-\d+"', head)
    if own is None:
        return Kind("safetensors", "a safetensors file of another program", "")
    return _OWN.get(own[1].decode(), _NETWORK)
