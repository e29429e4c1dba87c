"""The documentation is correct: its Python runs, and its catalogue of messages matches the source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from meshlib.testing import servers

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CATALOGUE = DOCS / "reference" / "errors-and-logs.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HOLE = re.compile(r'\{[^{}"]*\}')
"""A variable part of a message. A set of status codes in a text has quotes in its braces."""

RUN = sorted(path for path in DOCS.rglob("*.md") if BLOCK.search(path.read_text(encoding="utf-8")))
SPOKEN = {"ConfigError": -1, "ResolveError": 0, "local": 1, "self._final": 1, "self.stop": 0, "hedges.stop": 0}
"""Calls whose texts must be listed, and the index of the text argument."""


def add_health(server: grpc.Server) -> None:
    """Add gRPC's own health service, SERVING."""
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


@pytest.fixture
def svc_a(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two instances of the service that the pages call svc-a."""
    with servers(2, add=add_health) as instances:
        monkeypatch.setenv("MESHLIB_SVC_A_ENDPOINTS", ",".join(server.address for server in instances))
        yield


@pytest.mark.parametrize("page", RUN, ids=lambda path: path.stem)
def test_the_pages_run(page: Path, svc_a: None) -> None:
    """Every block marked python runs, in order, in one namespace for each page."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], page, "exec"), namespace)


LOGGING = re.compile(r"(_log|log|logger|_deferred)\.(debug|info|warning|error|exception)")
"""Logging calls, by the plain loggers and by the log thread."""


def holes(text: str) -> str:
    """A message without its variable parts, which include the bounds of a range, written out or not."""
    return re.sub(r"from \S+ to \S+$", "from {} to {}", HOLE.sub("{}", text))


def written(node: ast.expr | None) -> str | None:
    """The text of a literal, an f-string or a sum of both; None if it is built elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        return "".join(map(str, parts))
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Each message of the source, with its location."""
    for path in sorted((ROOT / "src" / "meshlib").rglob("*.py")):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Return) and path.name == "retry.py" and (why := written(node.value)):
                yield f"{path.name}:{node.lineno}", why
            if isinstance(node, ast.AnnAssign) and path.name == "explanation.py" and (why := written(node.value)):
                yield f"{path.name}:{node.lineno}", why
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func)
            if LOGGING.fullmatch(called):
                text = written(node.args[0])
                assert text is not None, f"{path}:{node.lineno} logs a text that the catalogue cannot list"
                yield f"{path.name}:{node.lineno}", re.sub(r"%[.\d]*[srdf]", "{}", text)
            elif called in SPOKEN or called.endswith(".refused"):
                text = written(node.args[SPOKEN.get(called, 0)])
                if text is not None and text.strip("{}: ;"):
                    yield f"{path.name}:{node.lineno}", text


def test_every_message_is_in_the_catalogue() -> None:
    """The catalogue has every log line, ConfigError text, and reason of a failed resolution or call of the source."""
    listed = {holes(code) for code in re.findall("`([^`]+)`", CATALOGUE.read_text(encoding="utf-8"))}
    told = [(where, text, holes(text).removeprefix("{}: ")) for where, text in messages()]
    missing = [f"{where}: {text}" for where, text, told_as in told if not any(told_as in known for known in listed)]
    assert not missing, "\n".join(missing)


def test_the_catalogue_lists_no_log_line_that_is_gone() -> None:
    """Each entry under "Log lines" is in the source."""
    section = CATALOGUE.read_text(encoding="utf-8").partition("## Log lines")[2]
    listed = re.findall(r"^\| [A-Z]+ \| `([^`]+)` \|", section, re.MULTILINE)
    assert listed
    said = {holes(text) for _, text in messages()}
    assert [line for line in listed if holes(line) not in said] == []
