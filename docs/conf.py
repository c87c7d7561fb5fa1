"""How Sphinx builds the site: `make docs`, into build/docs. The markdown files read the same on a plain git host.

The source folder is the repository, so that README.md and its relative links are pages like those of docs/.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))

project = "entcent_agents"
author = "the entcent_agents authors"
project_copyright = author
release = installed_version("entcent-agents")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_reference",
]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**", "tools/data/README.md"]
exclude_patterns = [
    *[f"{path.name}/**" for path in ROOT.iterdir() if path.is_dir() and path.name not in {"docs", "tools"}],
    "tools/[!d]*/**",
    "**/__pycache__",
]
nitpicky = True
smartquotes_action = "D"  # the dashes of field lists; quotes stay as they are written

# Markdown as a plain git host shows it: no syntax of MyST's own but in the index and the reference.
myst_enable_extensions: list[str] = []
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Docstrings are Google's, with `names` in single backticks.
default_role = "literal"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Source", ("Attributes", "params_style")]
autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
add_module_names = False
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 72
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "entcent_agents"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
highlight_language = "text"  # a block that says no language is a drawing or a formula
pygments_style = "tango"
pygments_dark_style = "github-dark"

# `make links` asks the web; nothing else here does.
linkcheck_timeout = 20
linkcheck_workers = 4
linkcheck_anchors = False
linkcheck_ignore = [r"http://127\.0\.0\.1", r"http://localhost"]
