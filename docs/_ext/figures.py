"""Tables of benchmark results and their conditions, from the JSON that the benchmarks write.

``{calls}`` shows ``figures/calls.json`` of ``benchmarks/calls.py``, ``{instructions}``, ``{machine}``, ``{tail}`` and
``{scale}`` those of ``benchmarks/instructions.py``, ``machine.py``, ``tail.py`` and ``scale.py``, and ``{budgets}`` the
budgets in them.
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
        """Markdown tables."""
        raise NotImplementedError


def ran(conditions: dict[str, str]) -> str:
    """Conditions of a run."""
    where = f"{conditions['machine']}, load {conditions['load']}"
    return f"*{conditions['date']}; {where}; {conditions['versions']}; `{conditions['command']}`*"


def ratio(found: list[float]) -> str:
    """Format a ratio and its interval."""
    middle, low, high = found
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


class Calls(Figures):
    """Cost of a call, by load."""

    file = "calls.json"

    def text(self, found: dict[str, Any]) -> str:
        """Tables of the loads, and the variants."""
        head = ("", "CPU, µs", "of bare (95 %)", "of three in turn", "calls/s", "p50, µs", "p99, µs", "p99.9, µs")
        parts = []
        for load, rows in found["tables"].items():
            lines = [
                (
                    name,
                    f"{row['cpu_us']:.0f}",
                    "1" if name == "bare" else ratio(row["ratio"]["bare"]),
                    "1" if name == "three bare in turn" else ratio(row["ratio"]["three bare in turn"]),
                    f"{row['calls_per_second']:.0f}",
                    *(f"{row[figure]:.0f}" for figure in ("p50_us", "p99_us", "p999_us")),
                )
                for name, row in rows.items()
            ]
            parts.append(f"**{load}**\n\n{table(head, lines)}")
        parts.append(table(("", "what it is"), found["variants"].items()))
        return "\n\n".join(parts)


class Instructions(Figures):
    """Instructions of a call by package."""

    file = "instructions.json"

    def text(self, found: dict[str, Any]) -> str:
        """A row per variant."""
        packages = list(next(iter(found["rows"].values())))
        rows = [(name, *map(str, [*row.values(), sum(row.values())])) for name, row in found["rows"].items()]
        return table(("", *packages, "all"), rows)


class Machine(Figures):
    """Costs measured without a server."""

    file = "machine.json"

    def text(self, found: dict[str, Any]) -> str:
        """A row per figure."""
        rows = [(name, f"{figure:.1f} {unit}") for name, (figure, unit) in found["figures"].items()]
        return table(("", "least of the rounds"), [(name, figure.replace("us", "µs")) for name, figure in rows])


class Budgets(Figures):
    """Budgets of the project beside the measurements."""

    file = "calls.json"

    def text(self, found: dict[str, Any]) -> str:
        """Ratios of a call, then figures with units."""
        rows = [
            (
                f"CPU of a call: {budget['what']}",
                f"{budget['most']:.2f}",
                f"{ratio(budget['found'])}, 95 %",
                budget["verdict"],
            )
            for budget in found["budgets"]
        ]
        for name in ("machine", "scale"):
            path = FIGURES / f"{name}.json"
            self.env.note_dependency(str(path))
            told = json.loads(path.read_text(encoding="utf-8"))["budgets"]
            rows += [(budget["what"], budget["most"], budget["found"], budget["verdict"]) for budget in told]
        return table(("", "at most", "measured", ""), rows)


class Tail(Figures):
    """One slow server of four."""

    file = "tail.json"

    def text(self, found: dict[str, Any]) -> str:
        """A table per kind."""
        head = ("", "calls/s", "p50, ms", "p95, ms", "p99, ms", "calls to the slow one")
        parts = []
        for kind, rows in found["tables"].items():
            lines = [
                (
                    name,
                    f"{row['calls_per_second']:.0f}",
                    *(f"{row[figure]:.1f}" for figure in ("p50_ms", "p95_ms")),
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
        """One table."""
        return table(("", *found["columns"]), [(name, *row) for name, row in found["rows"].items()])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives; called by Sphinx."""
    app.add_directive("calls", Calls)
    app.add_directive("instructions", Instructions)
    app.add_directive("machine", Machine)
    app.add_directive("budgets", Budgets)
    app.add_directive("tail", Tail)
    app.add_directive("scale", Scale)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
