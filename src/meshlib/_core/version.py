"""The version of the distribution, read by the build as well."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
