"""Tables of what benchmarks have measured, with what they ran on, from the JSON that they write.

``{calls}`` shows ``figures/calls.json`` of ``benchmarks/calls.py``, ``{budgets}`` the budgets in it, ``{tail}`` and
``{scale}`` those of ``benchmarks/tail.py`` and ``benchmarks/scale.py``.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import table

FIGURES = Path(__file__).parents[1] / "figures"


class Figures(SphinxDirective):
    """One file of figures."""

    file: str

    def run(self) -> list[nodes.Node]:
        """Made at each build."""
        path = FIGURES / self.file
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text(encoding="utf-8"))
        return list(self.parse_text_to_nodes(f"{self.text(found)}\n\n{ran(found['conditions'])}"))

    def text(self, found: dict[str, Any]) -> str:
        """What is shown of it, in Markdown."""
        raise NotImplementedError


def ran(conditions: dict[str, str]) -> str:
    """When, where and how."""
    return f"*{conditions['date']}; {conditions['machine']}; {conditions['versions']}; `{conditions['command']}`*"


def ratio(found: list[float]) -> str:
    """A ratio and its interval."""
    middle, low, high = found
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


class Calls(Figures):
    """What a call costs, load by load."""

    file = "calls.json"

    def text(self, found: dict[str, Any]) -> str:
        """Load by load, and what each variant is."""
        head = ("", "CPU, µs", "of bare (95 %)", "calls/s", "p50, µs", "p99, µs", "p99.9, µs")
        parts = []
        for load, rows in found["tables"].items():
            lines = [
                (
                    name,
                    f"{row['cpu_us']:.0f}",
                    "1" if name == "bare" else ratio(row["ratio"]["bare"]),
                    f"{row['calls_per_second']:.0f}",
                    *(f"{row[figure]:.0f}" for figure in ("p50_us", "p99_us", "p999_us")),
                )
                for name, row in rows.items()
            ]
            parts.append(f"**{load}**\n\n{table(head, lines)}")
        parts.append(table(("", "what it is"), found["variants"].items()))
        return "\n\n".join(parts)


class Budgets(Figures):
    """What the project holds itself to."""

    file = "calls.json"

    def text(self, found: dict[str, Any]) -> str:
        """Each beside what was measured."""
        rows = [
            (budget["what"], f"{budget['most']:.2f}", ratio(budget["found"]), budget["verdict"])
            for budget in found["budgets"]
        ]
        return table(("CPU per call, unary, 1 thread", "at most", "measured (95 %)", ""), rows)


class Tail(Figures):
    """One slow server of four."""

    file = "tail.json"

    def text(self, found: dict[str, Any]) -> str:
        """Kind by kind."""
        head = ("", "calls/s", "p50, ms", "p99, ms", "calls to the slow one")
        parts = []
        for kind, rows in found["tables"].items():
            lines = [
                (
                    name,
                    f"{row['calls_per_second']:.0f}",
                    f"{row['p50_ms']:.1f}",
                    f"{row['p99_ms']:.0f}",
                    f"{row['share']:.1%}",
                )
                for name, row in rows.items()
            ]
            parts.append(f"**{kind}**\n\n{table(head, lines)}")
        return "\n\n".join(parts)


class Scale(Figures):
    """Many hosts, and many channels."""

    file = "scale.json"

    def text(self, found: dict[str, Any]) -> str:
        """Row by row."""
        return table(("", *found["columns"]), [(name, *row) for name, row in found["rows"].items()])


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives; called by Sphinx."""
    app.add_directive("calls", Calls)
    app.add_directive("budgets", Budgets)
    app.add_directive("tail", Tail)
    app.add_directive("scale", Scale)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
