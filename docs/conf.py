"""The documentation as a site: `uv run sphinx-build -W -b dirhtml -c docs . site`.

The pages are those that a repository shows, with the same links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "tap-crankwheel"
project_copyright = "the tap-crankwheel developers"
html_title = project
html_copy_source = False
html_permalinks = False  # below some headings, their sign takes a line of its own
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_theme = "furo"
html_extra_path = ["index.html"]  # the first page is README
extensions = ["myst_parser", "sphinx_copybutton"]
include_patterns = ["*.md", "docs/*.md"]
root_doc = "README"
myst_heading_anchors = 3

CONTENTS = """
```{toctree}
:hidden:

docs/reference
docs/api
docs/running
docs/how-it-reads
docs/personal-data
docs/targets
docs/performance
docs/troubleshooting
docs/queries
docs/sandbox
CONTRIBUTING
CHANGELOG
```
"""


def add_contents(_: Sphinx, page: str, source: list[str]) -> None:
    """Add to the first page the table of contents that the site's menu is made of."""
    if page == root_doc:
        source[0] += CONTENTS


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("source-read", add_contents)
