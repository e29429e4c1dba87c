"""What a gRPC service config says of a channel, beside what its arguments say: each thing is said once."""

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
    """The service config of a channel, and the options that its subchannels are left with.

    Args:
        argument: ``service_config=``.
        options: the user's, among which there may be one, too.
        target: one that is grpc's alone keeps its options as they are.
        as_grpc: behind grpc's own factories one that cannot be followed is left for grpc to answer.

    Raises:
        ConfigError: there are two, or the one cannot be followed.
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
        _log.warning("%s: service config left to grpc, its retries are not made: reason=%s", target.text, error)
        return ServiceConfig(), options
    health = config.health_check_service
    return config, others if health is None else (*others, health_checked(health))


def with_service_config(
    methods: Mapping[str, MethodPolicy] | None, config: ServiceConfig
) -> Mapping[str, MethodPolicy]:
    """The policies of methods from both.

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


def either(field: str, argument: object, default: object, chosen: T, said: T | None) -> T:
    """What the service config says, if the argument was left alone.

    Args:
        field: the argument.
        argument: as it was given.
        default: what it is if it is not.
        chosen: what the argument means.
        said: what the service config says; None: nothing.

    Raises:
        ConfigError: both say something.
    """
    if said is None:
        return chosen
    if argument != default:
        raise ConfigError(field, argument, "is also set in the service config; set only one of them")
    return said
