"""The measured rows of ``docs/differences.toml``: Envoy's and meshlib's value of a figure of a case."""

import tomllib
from pathlib import Path

from tests.e2e.envoy.case import Figures

PATH = Path(__file__).parents[3] / "docs" / "differences.toml"

Listed = dict[str, dict[str, tuple[str, str]]]
"""By case and figure: Envoy's and meshlib's."""


def listed(text: str) -> Listed:
    """The measured differences of a table.

    Raises:
        ValueError: Two rows list one figure of one case, or one lists equal values.
    """
    found: Listed = {}
    for row in tomllib.loads(text)["difference"]:
        for case, figures in row.get("measured", {}).items():
            for figure, sides in figures.items():
                if figure in found.setdefault(case, {}):
                    raise ValueError(f"two rows list {figure!r} of the case {case!r}")
                if sides["envoy"] == sides["meshlib"]:
                    raise ValueError(f"{figure!r} of the case {case!r} does not differ: both are {sides['envoy']!r}")
                found[case][figure] = (sides["envoy"], sides["meshlib"])
    return found


def unlisted(envoy: Figures, meshlib: Figures, rows: dict[str, tuple[str, str]]) -> list[str]:
    """Errors of the table, a sentence each: missing differences, and outdated ones."""
    wrong = []
    for figure in sorted({*envoy, *meshlib, *rows}):
        ours, theirs = meshlib.get(figure, "absent"), envoy.get(figure, "absent")
        if figure not in rows:
            if ours != theirs:
                wrong.append(f"{figure}: Envoy {theirs!r}, meshlib {ours!r}, and no row of the table lists it")
        elif ours == theirs:
            wrong.append(f"{figure}: both {ours!r}; the row that lists a difference is out of date")
        elif (theirs, ours) != rows[figure]:
            wrong.append(f"{figure}: Envoy {theirs!r}, meshlib {ours!r}; the table has {' and '.join(rows[figure])}")
    return wrong
