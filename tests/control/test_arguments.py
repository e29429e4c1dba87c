"""The arguments of a channel: declared once, shown everywhere, and what was written is known."""

import inspect
import pydoc
import re
from collections.abc import Callable
from typing import Any

import pytest

import meshlib
import meshlib.aio
from meshlib._control.arguments import ChannelArguments, takes

FACADES = pytest.mark.parametrize("facade", [meshlib.channel, meshlib.aio.channel], ids=["sync", "aio"])


@takes(ChannelArguments)
def channel(arguments: ChannelArguments) -> ChannelArguments:
    """The arguments themselves."""
    return arguments


def described(facade: Callable[..., Any]) -> dict[str, str]:
    """The arguments in the docstring, with their texts."""
    section = re.search(r"Args:\n(.*?)\n\n", inspect.getdoc(facade) or "", re.DOTALL)
    assert section
    found = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def test_what_was_written_is_known_even_when_it_equals_the_default() -> None:
    """A configuration file fills only the rest."""
    assert channel("svc-a").written == frozenset()
    arguments = channel("svc-a", retry=meshlib.RetryPolicy(), balancer="round_robin", timeout=None)
    assert arguments.written == {"retry", "balancer", "timeout"}
    assert (arguments.retry, arguments.dns) == (meshlib.RetryPolicy(), meshlib.DnsPolicy())
    assert channel(target="svc-a").written == frozenset()


@FACADES
def test_every_argument_is_shown_with_its_default(facade: Callable[..., Any]) -> None:
    """By ``inspect.signature``, by ``help()``, and in the docstring, in one order."""
    declared = inspect.signature(ChannelArguments.__init__).parameters
    names = [name for name in declared if name != "self"]
    shown = inspect.signature(facade).parameters
    assert {name: shown[name].default for name in names} == {name: declared[name].default for name in names}
    assert list(shown) == list(described(facade)) == names
    text = pydoc.render_doc(facade, renderer=pydoc.plaintext)
    for name in names[1:]:
        assert re.search(rf"\b{name}: .*? = {re.escape(repr(declared[name].default))}", text, re.DOTALL), name


def test_both_facades_describe_the_arguments_alike() -> None:
    """But for those that are grpc's in one and grpc.aio's in the other."""
    sync, aio = described(meshlib.channel), described(meshlib.aio.channel)
    assert {name for name in sync if sync[name] != aio[name]} == {
        "credentials",
        "interceptors",
        "attempt_interceptors",
    }


@FACADES
def test_an_unknown_argument_is_named(facade: Callable[..., Any]) -> None:
    """As for any function."""
    with pytest.raises(TypeError, match=r"^channel\(\) got an unexpected keyword argument 'retires'"):
        facade("svc-a", retires=None)
    with pytest.raises(TypeError, match=r"^channel\(\) missing a required argument: 'target'"):
        facade()


@FACADES
async def test_dns_none_is_the_default(facade: Callable[..., Any]) -> None:
    """It was accepted before the type was checked, too."""
    closed = facade("svc-a", dns=None).close()
    if closed is not None:
        await closed
