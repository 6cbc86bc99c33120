"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build/html``. Nothing is fetched while building."""

import sys
from pathlib import Path

# The package beside these pages, installed or not: the pages describe this tree.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mi_estimators._version import __version__

project = "mi_estimators"
author = "The mi_estimators developers"
copyright = "2026, the mi_estimators developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["amsmath", "dollarmath", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"mi_estimators {__version__}"
exclude_patterns = ["_build"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape", "Source"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
