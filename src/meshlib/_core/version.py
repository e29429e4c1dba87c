"""Version of the distribution, also read by the build."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
