"""What tells the balancers of this package from those of applications, which are not trusted to be quick or correct."""

from meshlib._core.balancing.contracts import Picker

__all__ = ["BuiltinBalancer", "BuiltinPicker"]


class BuiltinBalancer:
    """A balancer that builds pickers in microseconds, so the control plane builds them itself."""

    __slots__ = ()


class BuiltinPicker(Picker):
    """A picker whose methods raise nothing: an exception in one comes from a signal handler."""

    reentrant: bool = False
    """A pick may run in the middle of another pick."""
