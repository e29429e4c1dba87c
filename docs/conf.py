"""Sphinx configuration: MyST pages, the furo theme; every warning is an error (``sphinx-build -W``)."""

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

# Types are in the signatures, so docstring sections need not repeat them.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"meshlib {release}"
