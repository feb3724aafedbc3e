"""How Sphinx builds the documentation. It needs no network: formulas and names of other projects come from local files."""

import sys
from pathlib import Path

from sb3_a3c import __version__

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]  # for what follows, and for the programs that draw pictures

from inventories import write_inventories  # noqa: E402

project = "sb3_a3c"
copyright = "2026, the sb3_a3c authors"
release = version = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # a copy of MathJax in place of the one on a foreign host
    "sphinx_copybutton",
    "myst_parser",  # reads CONTRIBUTING.md and CHANGELOG.md
    "matplotlib.sphinxext.plot_directive",  # draws the pictures from the programs in this folder
    "measured",  # figures from the benchmarks' tables
]
plot_formats = ["svg"]
plot_html_show_source_link = plot_html_show_formats = False
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sb3_a3c {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
autosummary_generate = False  # the names are described on the pages that explain them
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpicky = False
intersphinx_mapping = write_inventories(HERE / "_build" / "inventories")
