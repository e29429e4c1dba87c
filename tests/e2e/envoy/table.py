"""What ``docs/differences.toml`` lists as measured: for a case and a figure, what Envoy shows and what meshlib does."""

import tomllib
from pathlib import Path

from tests.e2e.envoy.case import Figures

PATH = Path(__file__).parents[3] / "docs" / "differences.toml"

Listed = dict[str, dict[str, tuple[str, str]]]
"""By case and figure: Envoy's and meshlib's."""


def listed(text: str) -> Listed:
    """The measured differences of a table.

    Raises:
        ValueError: Two rows list one figure of one case, or one lists what is no difference.
    """
    found: Listed = {}
    for row in tomllib.loads(text)["difference"]:
        for case, figures in row.get("measured", {}).items():
            for figure, sides in figures.items():
                if figure in found.setdefault(case, {}):
                    raise ValueError(f"two rows list {figure!r} of the case {case!r}")
                if sides["envoy"] == sides["meshlib"]:
                    raise ValueError(f"{figure!r} of the case {case!r} is no difference: both are {sides['envoy']!r}")
                found[case][figure] = (sides["envoy"], sides["meshlib"])
    return found


def unlisted(envoy: Figures, meshlib: Figures, rows: dict[str, tuple[str, str]]) -> list[str]:
    """What the table does not say as it is, a sentence each: differences it lacks, and those that are no more."""
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
