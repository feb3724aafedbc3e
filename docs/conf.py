"""How Sphinx builds the documentation."""

from sb3_a3c import __version__

project = "sb3_a3c"
copyright = "2026, the sb3_a3c authors"
release = version = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "matplotlib.sphinxext.plot_directive",  # runs gradient_path.py for architecture.rst
]
plot_formats = ["svg"]
plot_html_show_source_link = plot_html_show_formats = False
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sb3_a3c {release}"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpicky = False
