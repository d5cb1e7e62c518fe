"""The site of README.md, CONTRIBUTING.md, CHANGELOG.md and docs/: `make docs` builds it into site/.

Pages are plain Markdown with relative links, so that they read as well where the repository is shown. What only a site
has is made in `site_extension.py`: a table of contents, MathML, pages for source files, docstrings.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Visage"
author = "the Visage developers"
copyright = "the Visage developers; MIT license"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_extension"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "benchmarks/*.md"]
exclude_patterns = [
    ".*",
    "**/.*",
    "data",
    "metrics",
    "mlartifacts",
    "preview",
    "report",
    "runs",
    "site",
    "src",
    "tests",
]

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # as GitHub writes displayed formulas
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
autodoc_default_options = {"no-value": True}
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages, whose documentation is not fetched

html_theme = "furo"
html_title = "Visage"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
