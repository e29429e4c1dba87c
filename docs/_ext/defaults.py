"""The default of each parameter beside its name, in the list of parameters, and short.

Signatures have them too, but a reader of the list would have to look them up in a line of a thousand characters.
"""

import dataclasses
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


class Written:
    """A default that is shown as it is written: ``RetryPolicy()``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def plain(kind: type) -> object:
    """A policy with its own defaults; None: it has a field without one."""
    try:
        return kind()
    except TypeError:
        return None


def shorten(_app: Sphinx, documented: Any, _bound: bool) -> None:
    """Show a default that is a policy with its own defaults without them."""
    try:
        signature = inspect.signature(documented)
    except (TypeError, ValueError):
        return
    parameters = []
    for parameter in signature.parameters.values():
        kind = type(parameter.default)
        if dataclasses.is_dataclass(kind) and parameter.default == plain(kind):
            parameter = parameter.replace(default=Written(f"{kind.__name__}()"))
        parameters.append(parameter)
    if inspect.isfunction(documented) and any(isinstance(each.default, Written) for each in parameters):
        documented.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]


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
    app.connect("autodoc-before-process-signature", shorten)
    app.connect("autodoc-process-docstring", add_defaults, priority=900)
    return {"parallel_read_safe": True}
