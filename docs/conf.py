"""Sphinx: MyST pages, the furo theme, and no warning let through (``sphinx-build -W``)."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "meshlib"
author = "The meshlib authors"
copyright = "The meshlib authors"
release = version = installed("meshlib-grpc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tables", "figures"]
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Signatures carry the types; the sections of a docstring carry the meaning, in words.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"meshlib {release}"
