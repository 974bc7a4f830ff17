"""Sphinx configuration: Markdown pages, no generated API beyond what the pages quote."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

project = "Systolith"
author = "the Systolith authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "Systolith"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
