# SPDX-License-Identifier: LGPL-2.1-or-later
"""The site of the documentation: ``pip install '.[docs]' && sphinx-build -W docs site``."""

from __future__ import annotations

import vmemscope

project = "vmemscope"
author = "the vmemscope authors"
version = release = vmemscope.__version__
html_title = f"vmemscope {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
# The pages are read in the repository, too, so links name files, and headings have anchors.
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
exclude_patterns = ["_build"]
# Examples of output are no programs.
highlight_language = "none"
# Types of other packages have no page here.
nitpicky = False
