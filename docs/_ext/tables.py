"""Tables generated from the program's own data, so that they cannot disagree with it.

``{stages}`` shows the chain of stages from ``meshlib._core.stages``, ``{metrics}`` the instruments that a channel
creates, ``{flags}`` those of the access log, ``{differences}`` the table of ``differences.toml``, ``{measured}`` its
rows that tests have measured.
"""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from meshlib._core import stages
from meshlib.telemetry import _access_log as access_log
from meshlib.telemetry import _instruments as instruments
from meshlib.telemetry import _names as names

SENTENCE = 40
"""Characters from which the text of a cell wraps."""
DIFFERENCES = Path(__file__).parents[1] / "differences.toml"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


class Stages(SphinxDirective):
    """Figure and table of the stages of a call."""

    def run(self) -> list[nodes.Node]:
        """Generate the table at each build."""
        self.env.note_dependency(stages.__file__)
        rows = [
            (f"`{stage.name}`", stage.scope, "machine" if stage.inside else "shell", stage.why)
            for stage in stages.STAGES
        ]
        text = f"```text\n{stages.figure()}\n```\n\n{table(('stage', 'once per', 'part of', 'why here'), rows)}"
        return list(self.parse_text_to_nodes(text))


READ = ("those of the channel", "none: counted anyway, read when collected")
RETRIED = ("`grpc.method`, `grpc.target`", "one measurement for a call that had any")
RECORDED = {
    names.DURATION: ("those of the call", "one measurement a call"),
    names.ATTEMPT_DURATION: ("`grpc.method`, `grpc.target`, `grpc.status`", "one more an attempt"),
    names.RETRIES: RETRIED,
    names.TRANSPARENT_RETRIES: RETRIED,
    names.HEDGES: RETRIED,
    names.RETRY_DELAY: RETRIED,
    names.HOSTS: (f"those of the channel, `{names.HOST_STATE}`", READ[1]),
    names.RESOLUTIONS: (f"those of the channel, `{names.OUTCOME}`", READ[1]),
}
"""Attributes of an instrument, and its cost."""


class Meter:
    """A meter, and its provider, that only records the created instruments."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []

    def get_meter(self, *scope: object) -> "Meter":
        """The provider is its own meter."""
        return self

    def __getattr__(self, create: str) -> Any:
        kind = create.removeprefix("create_").replace("_", " ").replace("up down", "up-down")

        def note(name: str, *_: object, unit: str, description: str, **__: object) -> "Meter":
            self.rows.append((f"`{name}`", kind, f"`{unit}`", description))
            return self

        return note


class Metrics(SphinxDirective):
    """Instruments of a channel."""

    def run(self) -> list[nodes.Node]:
        """Generate the table at each build."""
        self.env.note_dependency(instruments.__file__)
        meter = Meter()
        instruments.Instruments(meter)  # type: ignore[arg-type]
        rows = [(*row, *RECORDED.get(row[0].strip("`"), READ)) for row in meter.rows]
        head = ("name", "instrument", "unit", "what", "attributes", "cost")
        return list(self.parse_text_to_nodes(table(head, rows)))


class Flags(SphinxDirective):
    """Envoy's response flags in the access log."""

    def run(self) -> list[nodes.Node]:
        """Generate the table at each build."""
        self.env.note_dependency(access_log.__file__)
        rows = [(f"`{flag}`", what) for flag, what in access_log.FLAGS.items()]
        return list(self.parse_text_to_nodes(table(("flag", "what was the matter"), rows)))


def differences() -> list[dict[str, Any]]:
    """Return the rows of ``differences.toml``."""
    rows: list[dict[str, Any]] = tomllib.loads(DIFFERENCES.read_text(encoding="utf-8"))["difference"]
    return rows


class Differences(SphinxDirective):
    """Differences from Envoy and gRPC, by area."""

    def run(self) -> list[nodes.Node]:
        """Generate the table at each build."""
        self.env.note_dependency(str(DIFFERENCES))
        areas: dict[str, list[dict[str, Any]]] = {}
        for row in differences():
            areas.setdefault(row["area"], []).append(row)
        head = ("topic", "Envoy", "grpcio", "meshlib", "why")
        keys = ("topic", "envoy", "grpc", "meshlib", "why")
        text = "\n\n".join(
            f"**{area}**\n\n{table(head, [[row[key] for key in keys] for row in rows])}" for area, rows in areas.items()
        )
        return list(self.parse_text_to_nodes(text))


class Measured(SphinxDirective):
    """Different results of a real Envoy and meshlib, by case."""

    def run(self) -> list[nodes.Node]:
        """Generate the table at each build."""
        self.env.note_dependency(str(DIFFERENCES))
        rows = [
            (case, figure, f"`{sides['envoy']}`", f"`{sides['meshlib']}`", row["topic"])
            for row in differences()
            for case, figures in row.get("measured", {}).items()
            for figure, sides in figures.items()
        ]
        return list(self.parse_text_to_nodes(table(("case", "figure", "Envoy", "meshlib", "because of"), rows)))


def mark_prose(_app: Sphinx, document: nodes.document, _page: str) -> None:
    """Give cells with a sentence a class, so that the style sheet can keep them wide enough."""
    for cell in document.findall(nodes.entry):
        if len(cell.astext()) > SENTENCE:
            cell["classes"].append("prose")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives; called by Sphinx."""
    app.add_directive("stages", Stages)
    app.add_directive("metrics", Metrics)
    app.add_directive("flags", Flags)
    app.add_directive("differences", Differences)
    app.add_directive("measured", Measured)
    app.connect("doctree-resolved", mark_prose)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
