# SPDX-License-Identifier: Apache-2.0
"""The random-face generator: MobileStyleGAN for faces, from the wheel of the random-face package.

The wheel is found or downloaded, and read as data. No code in it is executed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from ..io.atomic import PathLike, atomic_write
from ..io.budget import read_file
from ..io.openvino import read_ir
from .generator import Generator
from .mobile_stylegan import mobile_stylegan

NAME = "random-face"
VERSION = "2021.7.21.1"
WHEEL = f"random_face-{VERSION}-py3-none-any.whl"
SHA256 = "e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5"
NOTICE = (
    f"{NAME} {VERSION} contains MobileStyleGAN, distilled from StyleGAN2 on FFHQ. It is for research only, "
    "because its teacher network and the FFHQ data set are licensed for non-commercial use."
)
NETWORKS = ("MappingNetwork", "SynthesisNetwork")
FILES = tuple(f"{network}.{suffix}" for network in NETWORKS for suffix in ("xml", "bin"))


def load_random_face(path: PathLike | None = None, *, device: str | torch.device = "cpu") -> Generator:
    """Load the random-face generator.

    Args:
        path: The wheel, or the folder of an installation that holds the networks' four files. The default is the
            installed distribution, else the cached wheel, else a download of the wheel.
        device: Device of the network.

    Returns:
        The generator.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the wheel has another sha256 or a file is damaged.
        ConnectionError: If the wheel cannot be downloaded.
    """
    path = path or installed_random_face() or fetch_random_face()
    networks = read_random_face(Path(path))
    return mobile_stylegan(networks["MappingNetwork"], networks["SynthesisNetwork"], name=NAME, device=device)


def read_random_face(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the two networks of the random-face package.

    Args:
        path: The wheel, or the folder of an installation that holds the networks' four files.

    Returns:
        Constants of "MappingNetwork" and "SynthesisNetwork", as `read_ir` returns them.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the wheel has another sha256 or a file is damaged. The message names the file.
    """
    if path.is_dir():
        files = {name: (path / name).read_bytes() for name in FILES}
    else:
        check_sha256(path)
        with zipfile.ZipFile(path) as wheel:
            files = {name: wheel.read(f"random_face/data/{name}") for name in FILES}
    return {name: read_ir(files[f"{name}.xml"], files[f"{name}.bin"], f"{path / name}.xml/.bin") for name in NETWORKS}


def check_sha256(wheel: Path) -> None:
    """Check that the file is the random-face wheel, byte for byte.

    Raises:
        ValueError: If the sha256 differs. The message names the file.
    """
    try:
        digest = hashlib.sha256(read_file(wheel)).hexdigest()
    except ValueError as error:
        raise ValueError(f"{wheel} cannot be used: {error}") from error
    if digest != SHA256:
        raise ValueError(f"{wheel} is not the wheel of {NAME} {VERSION}: expected sha256 {SHA256}, got {digest}")


def installed_random_face() -> Path | None:
    """Return the folder of the networks in the installed distribution, or None if this version is not installed."""
    try:
        distribution = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file("random_face/data"))) if distribution.version == VERSION else None


def cache_folder() -> Path:
    """Return the folder of files that are made or downloaded once: `$STYLEFAST_CACHE`, else `~/.cache/stylefast`."""
    return Path(os.environ.get("STYLEFAST_CACHE") or Path.home() / ".cache" / "stylefast")


def fetch_random_face(directory: PathLike | None = None) -> Path:
    """Download the random-face wheel once with pip, by name, version and hash, and print its licence notice.

    Args:
        directory: Folder of the wheel. The default is `cache_folder()`.

    Returns:
        Path of the wheel. The wheel of an earlier download is used without network access.

    Raises:
        ConnectionError: If pip cannot download the wheel. The message ends with pip's reason.
        ValueError: If the downloaded wheel has another sha256.
    """
    directory = Path(directory or cache_folder())
    wheel = directory / WHEEL
    if os.environ.get("RANK") in (None, "", "0"):  # torchrun's rank: one notice per job
        print(NOTICE, file=sys.stderr)
    if not wheel.exists():
        with tempfile.TemporaryDirectory() as scratch, atomic_write(wheel) as temporary:
            try:
                _pip_download(Path(scratch))
            except ConnectionError as error:
                remedy = f"put {WHEEL} into {directory}, or use the network toy:sg2, which is tiny and random"
                raise ConnectionError(f"{error}; {remedy}") from None
            check_sha256(Path(scratch) / WHEEL)
            shutil.copyfile(Path(scratch) / WHEEL, temporary)
    return wheel


def _pip_download(directory: Path) -> None:
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), "-r", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip() or f"pip exited with {result.returncode}").splitlines()[-1]
        raise ConnectionError(f"{NAME} {VERSION} could not be downloaded: {reason}")
