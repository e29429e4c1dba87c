"""The gRPC service config of a channel together with its arguments: each setting may be given once."""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from meshlib._adapt.options import Options, health_checked, service_config
from meshlib._core.errors import ConfigError
from meshlib._core.policy import MethodPolicy
from meshlib._core.service_config import ServiceConfig, parse
from meshlib._core.target import Target

__all__ = ["configured", "either", "with_service_config"]

_log = logging.getLogger("meshlib")

OPTION = "options['grpc.service_config']"

T = TypeVar("T")


def configured(
    argument: str | Mapping[str, Any] | None, options: Options, *, target: Target, as_grpc: bool
) -> tuple[ServiceConfig, Options]:
    """Return the service config of a channel, and the remaining options for its subchannels.

    Args:
        argument: ``service_config=``.
        options: of the user; they may contain one, too.
        target: a target that only grpc understands keeps its options.
        as_grpc: set by the replacements of grpc's own factories: an unsupported config is passed to grpc.

    Raises:
        ConfigError: there are two, or one that cannot be followed.
    """
    text, others = service_config(options)
    field, given = (OPTION, text) if argument is None else ("service_config", argument)
    if given is None:
        return ServiceConfig(), options
    if text is not None and argument is not None:
        raise ConfigError(field, argument, f"is also set in {OPTION}; set only one of them")
    if target.native:
        if argument is not None:
            raise ConfigError(
                field, argument, f"cannot be used with {target.text!r}, a target that grpc resolves itself"
            )
        return ServiceConfig(), options
    try:
        config = parse(given, field=field)
    except ConfigError as error:
        if not as_grpc:
            raise
        _log.warning("%s: service config passed to grpc with retries disabled: reason=%s", target.text, error)
        return ServiceConfig(), options
    health = config.health_check_service
    return config, others if health is None else (*others, health_checked(health))


def with_service_config(
    methods: Mapping[str, MethodPolicy] | None, config: ServiceConfig
) -> Mapping[str, MethodPolicy]:
    """Merge the method policies of both.

    Raises:
        ConfigError: both name the same method.
    """
    if methods is None:
        return config.methods
    if not config.methods or not isinstance(methods, Mapping):
        return methods
    for name in methods:
        if name in config.methods:
            raise ConfigError("methods", name, "is also set in the service config; set only one of them")
    return {**config.methods, **methods}


def either(field: str, argument: object, written: bool, chosen: T, said: T | None) -> T:
    """Return the service config's value, or the argument's if it has none.

    Args:
        field: the argument's name.
        argument: its value as given.
        written: whether it was given.
        chosen: its value, resolved.
        said: the service config's value; None: none.

    Raises:
        ConfigError: both are given.
    """
    if said is None:
        return chosen
    if written:
        raise ConfigError(field, argument, "is also set in the service config; set only one of them")
    return said
