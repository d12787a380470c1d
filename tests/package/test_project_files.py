# SPDX-License-Identifier: Apache-2.0
"""Tests of the files around the package: README, versions, citation, continuous integration, linters, API pages."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import stylefast

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest installs tomli there
    import tomli as tomllib

ROOT = Path(stylefast.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def make(*targets: str) -> str:
    """Return the commands that make would run, whether or not the targets are up to date."""
    return subprocess.run(
        ["make", "--dry-run", "--always-make", *targets], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file or no heading."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files_and_headings(page: Path):
    assert not broken_links(page)


def test_broken_links_are_noticed(tmp_path: Path):
    page = tmp_path / "a.md"
    page.write_text(
        "# The Title (1)\n[a](absent.md) [b](#the-title-1) [c](#absent) [d](a.md#absent) [e](https://a.b)\n"
    )
    assert broken_links(page) == ["absent.md", "#absent", "a.md#absent"]


def test_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_versions_agree():
    version = stylefast.__version__
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert read_yaml("CITATION.cff")["version"] == version
    releases = re.findall(r"^## \[(\S+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == version


def test_citation_has_the_fields_of_its_format():
    citation = read_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert {"type", "title", "authors", "year"} <= citation["preferred-citation"].keys()
    assert citation["license"] == PROJECT["license"]


def test_hosted_ci_runs_make_targets_on_supported_versions():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    commands = []
    for job in jobs.values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for values in itertools.product(*matrix.values()):
            choice = dict(zip(matrix, values, strict=True))
            for command in (step["run"] for step in job["steps"] if "run" in step):
                commands.append(re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda m, c=choice: c[m[1]], command).split())
    assert all(command[0] == "make" for command in commands)
    targets = {word for command in commands for word in command[1:] if "=" not in word}
    assert targets == {"test", "lint", "docs", "sanitize", "triton", "triton-aot", "wheel"} and make(*targets)
    matrix = jobs["test"]["strategy"]["matrix"]
    classifiers = " ".join(PROJECT["classifiers"])
    assert all(f"Python :: {version}" in classifiers for version in matrix["python"])
    newest = re.search(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert newest and matrix["torch"][-1] == newest[1]
    assert any(dependency == f"torch>={matrix['torch'][0][:-2]}" for dependency in PROJECT["dependencies"])


def test_pre_commit_runs_linters_of_make_lint():
    lint = make("lint")
    hooks = read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert len(hooks) == 5
    for hook in hooks:
        words = hook["entry"].replace(" --force-exclude", "").split()
        assert re.search(r"\s".join(map(re.escape, words)), lint), hook["id"]


def test_oldest_requirements_are_the_promised_versions():
    oldest = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements-oldest.txt").read_text(), re.MULTILINE))
    promised = re.findall(
        r"([\w-]+)(?:\[.*?\])?>=([\d.]+)",
        " ".join([*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]),
    )
    for name, version in promised:
        if name in oldest:
            assert f"{oldest[name]}.".startswith(f"{version}."), name
    assert {name for name, _ in promised if name in oldest} >= {
        "numpy",
        "safetensors",
        "pillow",
        "tqdm",
        "typer",
        "isal",
    }


def test_api_pages_document_every_public_module_and_function():
    pages = " ".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: (\S+)$", pages, re.MULTILINE))
    classes = {
        "Catalog": "catalog",
        "NMF": "factorization",
        "SphericalKMeans": "kmeans",
        "StyleEditor": "editing",
    }  # shown in their modules
    for name in [*stylefast.__all__, "sklearn"]:
        assert f"stylefast.{classes.get(name, name)}" in documented, name
