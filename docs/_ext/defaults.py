"""The default of each parameter beside its name, in the list of parameters.

Signatures have them too, but a reader of the list would have to look them up in a line of a thousand characters.
"""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

FIELD = re.compile(r":param (\\?\*{0,2}\w+):")


def text(default: object) -> str:
    """A default as it is written; a set in a fixed order."""
    if isinstance(default, frozenset):
        return "{" + ", ".join(sorted(map(repr, default))) + "}" if default else "{}"
    return repr(default)


def add_defaults(_app: Sphinx, what: str, _name: str, documented: Any, _options: Any, lines: list[str]) -> None:
    """Add a field with the default after each parameter that has one; Sphinx shows it in parentheses."""
    if what not in ("function", "method", "class", "exception"):
        return
    try:
        parameters = inspect.signature(documented).parameters
    except (TypeError, ValueError):
        return
    shown = [match[1] for line in lines if (match := FIELD.match(line))]
    defaults = {
        name: text(parameters[name].default)
        for name in shown
        if name in parameters and parameters[name].default is not inspect.Parameter.empty
    }
    first = next((index for index, line in enumerate(lines) if FIELD.match(line)), len(lines))
    lines[first:first] = [f":type {name}: default ``{default}``" for name, default in defaults.items()]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, after napoleon has turned the docstring's sections into fields."""
    app.connect("autodoc-process-docstring", add_defaults, priority=900)
    return {"parallel_read_safe": True}
