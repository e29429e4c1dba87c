"""Base classes of the built-in balancers; those of applications are not trusted to be fast or correct."""

from meshlib._core.balancing.contracts import Picker

__all__ = ["BuiltinBalancer", "BuiltinPicker"]


class BuiltinBalancer:
    """Balancer that builds pickers in microseconds, so the control plane builds them itself."""

    __slots__ = ()


class BuiltinPicker(Picker):
    """Picker whose methods never raise: an exception in one comes from a signal handler."""

    reentrant: bool = False
    """Whether a pick may run in the middle of another pick."""
