"""The site's settings: `make docs` builds it, strictly, into docs/_build."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext")]

from halfstep.version import __version__  # noqa: E402 - needs nothing of the path, but stands with what does

project = "halfstep"
version = release = __version__
html_title = f"halfstep {__version__}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "format_pictures",
    "json_fields",
    "measured_tables",
]
exclude_patterns = ["_build", "outputs", "gallery-amd-epyc.md"]
smartquotes = False  # they make one dash of the two that an option begins with
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the gallery's file begins with a heading of the second level

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["halfstep.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d4ed8", "color-brand-content": "#1d4ed8"},
    "dark_css_variables": {"color-brand-primary": "#8ab4ff", "color-brand-content": "#8ab4ff"},
}
