# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A report on everything as one HTML file, to be read without scripts and without a network.

Templates escape all text (jinja2's autoescape), after control characters were. A
Content-Security-Policy forbids scripts, and styles but the file's own. :mod:`.pictures`
draws, :mod:`.compound` draws a compound page, :mod:`.views` prepares what is shown.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined

from ... import __version__
from ...text import binary_size, count
from ..full import heading, seen
from ..words import header, left_out, safe
from .views import View

if TYPE_CHECKING:
    from ..documents.full import FullReport

__all__ = ("render_html",)


def render_html(report: FullReport) -> str:
    """Return a report as the text of an HTML file."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=binary_size, hex=lambda number: f"{number:#x}", counted=_counted, seconds=_seconds
    )
    style = _template("report.css")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        report=report,
        view=View(report),
        header=header(report.target),
        heading=heading(report),
        hidden=left_out(report),
        seen=seen,
        style=style,
        digest=digest,
        version=__version__,
    )


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _printable(value: object) -> object:
    """Escape control characters in text; what templates made themselves (Markup) stays."""
    return safe(value) if type(value) is str else value


def _counted(number: int, noun: str, plural: str | None = None) -> str:
    return count(number, noun, plural)


def _seconds(value: float) -> str:
    return f"{value:.6f}"
