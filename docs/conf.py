"""Sphinx configuration: MyST pages, the furo theme; every warning is an error (``sphinx-build -W``)."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "meshlib"
author = "The meshlib authors"
copyright = "The meshlib authors"
release = version = installed("meshlib-grpc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tables", "figures", "defaults"]
exclude_patterns = ["_build", "_ext", "_static"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Types are in the signatures, so docstring sections need not repeat them.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80  # characters; a longer signature has one parameter a line
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["width.css"]
html_title = f"meshlib {release}"
