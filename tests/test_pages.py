"""Type checks of the Python in the README and the pages: copies in ``tests/typing/pages``, which mypy --strict and
pyright read together with the rest."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIES = ROOT / "tests" / "typing" / "pages"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEAD = '''"""The blocks of {page}: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard
'''


def copies() -> dict[str, str]:
    """The expected content of each file of the folder."""
    found = {}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        if blocks:
            inside = page.relative_to(ROOT)
            name = "_".join(inside.with_suffix("").parts).replace("-", "_").lower()
            parts = [HEAD.format(page=inside), *(f"# block {n}\n{block}" for n, block in enumerate(blocks, 1))]
            found[f"{name}.py"] = "\n".join(parts)
    return found


def test_type_checkers_read_the_pages_as_they_are() -> None:
    """The copies match the pages. MESHLIB_UPDATE_PAGES=1 rewrites them."""
    expected = copies()
    if os.environ.get("MESHLIB_UPDATE_PAGES"):
        COPIES.mkdir(exist_ok=True)
        for path in COPIES.glob("*.py"):
            path.unlink()
        for name, text in expected.items():
            (COPIES / name).write_text(text, encoding="utf-8")
    found = {path.name: path.read_text(encoding="utf-8") for path in COPIES.glob("*.py")}
    assert found == expected, "MESHLIB_UPDATE_PAGES=1 pytest tests/test_pages.py rewrites the copies"


@pytest.mark.parametrize("name", ["readme.py", "docs_tutorial.py", "docs_howto_telemetry.py"])
def test_the_pages_that_newcomers_read_have_blocks(name: str) -> None:
    """Each of these pages has at least one Python block."""
    assert name in copies()
