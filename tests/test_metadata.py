"""The package's metadata on PyPI."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_links_of_the_readme_lead_somewhere(project: dict[str, Any]) -> None:
    """In a clone they point to existing files; on PyPI, after the substitutions of the build, to the repository."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = [link for link in LINK.findall(text) if not link.startswith(("https:", "#"))]
    assert relative
    assert [link for link in relative if not (ROOT / link.partition("#")[0]).exists()] == []
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    repository = project["project"]["urls"]["Repository"]
    links = LINK.findall(text)
    assert {f"{repository}/blob/main/{link}" for link in relative} <= set(links)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_project_says_where_it_lives(project: dict[str, Any]) -> None:
    """Each address that names a file of the repository names an existing one; security is among them."""
    urls = project["project"]["urls"]
    assert {"Repository", "Documentation", "Changelog", "Security"} <= set(urls)
    files = [url.partition("/blob/main/")[2] for url in urls.values() if "/blob/main/" in url]
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_documentation_builds_with_its_own_group(project: dict[str, Any]) -> None:
    """The group ``docs`` has what autodoc imports beyond the package's dependencies: pytest, for the fixtures."""
    group = project["dependency-groups"]["docs"]
    assert any(isinstance(need, str) and need.startswith("pytest") for need in group)
