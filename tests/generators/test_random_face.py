# SPDX-License-Identifier: Apache-2.0
"""The random-face wheel: found, fetched once, read as data, and refused if its hash is different."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from openvino_graph import WEIGHTS, graph_xml

from stylefast.generators import load, random_face
from stylefast.generators.mobile_stylegan import mobile_stylegan


def test_graphs_of_other_networks_are_refused():
    with pytest.raises(ValueError, match="not MobileStyleGAN's mapping network"):
        mobile_stylegan({"a": np.zeros((512, 512), np.float32)}, {})
    mapping = {f"{kind}{i}": np.zeros(shape) for i in range(8) for kind, shape in (("w", (512, 512)), ("b", 512))}
    with pytest.raises(ValueError, match=r"synthesis network: it has no constant m\.input\.input"):
        mobile_stylegan(mapping, {})


# The wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel with the structure of the real one, whose hash is accepted."""
    path = tmp_path / "source" / random_face.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(random_face.NETWORKS):
            archive.writestr(f"random_face/data/{name}.xml", graph_xml((f"a{number}", "f32", "4", 0, 16)))
            archive.writestr(f"random_face/data/{name}.bin", WEIGHTS)
    monkeypatch.setattr(random_face, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def pip(monkeypatch, wheel):
    """Stand-in for pip that records its calls, and writes `pip.content` or, if `pip.stderr` is set, fails with it."""

    class Pip:
        content, stderr = wheel.read_bytes(), ""
        commands, requirements = [], []

        def run(self, command, **options):
            self.commands.append(command)
            self.requirements.append(Path(command[command.index("-r") + 1]).read_text())
            if not self.stderr:
                Path(command[command.index("--dest") + 1], random_face.WHEEL).write_bytes(self.content)
            return subprocess.CompletedProcess(command, int(bool(self.stderr)), "", self.stderr)

    pip = Pip()
    monkeypatch.setattr(random_face.subprocess, "run", pip.run)
    return pip


def test_networks_are_read_from_the_wheel_and_from_a_folder(wheel, tmp_path):
    got = random_face.read_random_face(wheel)
    assert [list(got[name]) for name in ("MappingNetwork", "SynthesisNetwork")] == [["a0"], ["a1"]]
    zipfile.ZipFile(wheel).extractall(tmp_path)
    folder = tmp_path / "random_face" / "data"
    np.testing.assert_equal(random_face.read_random_face(folder), got)
    (folder / "SynthesisNetwork.bin").write_bytes(WEIGHTS[:12])
    with pytest.raises(ValueError, match=r"data/SynthesisNetwork\.xml.*bytes 0 to 16 of 12"):
        random_face.read_random_face(folder)


def test_another_wheel_is_refused_by_name(wheel, tmp_path):
    foreign = tmp_path / "foreign.whl"
    foreign.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"foreign\.whl is not .* expected sha256 {random_face.SHA256}, got [0-9a-f]"):
        load(foreign)
    with pytest.raises(FileNotFoundError, match="absent.whl"):
        load(tmp_path / "absent.whl")


def test_the_installed_distribution_is_found_by_name_and_version(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert random_face.installed_random_face() is None
    for version, expected in ((random_face.VERSION, tmp_path / "random_face" / "data"), ("2020.1.1.1", None)):
        folder = tmp_path / f"random_face-{random_face.VERSION}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: random-face\nVersion: {version}\n")
        assert random_face.installed_random_face() == expected


def test_the_wheel_is_fetched_once_by_name_version_and_hash(pip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STYLEFAST_CACHE", str(tmp_path / "cache"))
    path = random_face.fetch_random_face()
    assert path == tmp_path / "cache" / random_face.WHEEL and path.read_bytes() == pip.content
    assert pip.requirements == [f"random-face==2021.7.21.1 --hash=sha256:{random_face.SHA256}\n"]
    assert {"download", "--no-deps", "--require-hashes", "--only-binary=:all:"} < set(pip.commands[0])
    assert "research only" in capsys.readouterr().err
    assert random_face.fetch_random_face() == path and len(pip.commands) == 1
    assert [file.name for file in path.parent.iterdir()] == [random_face.WHEEL]


def test_a_failed_download_says_why_and_leaves_nothing(pip, tmp_path):
    pip.stderr = "WARNING: Retrying\nERROR: No matching distribution found\n"
    reason = r"random-face 2021\.7\.21\.1 .*: ERROR: No matching distribution found"
    with pytest.raises(ConnectionError, match=f"{reason}; put random_face-.*whl into .*toy:sg2"):
        random_face.fetch_random_face(tmp_path / "cache")
    pip.stderr, pip.content = "", b"something else"
    with pytest.raises(ValueError, match="is not the wheel"):
        random_face.fetch_random_face(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
