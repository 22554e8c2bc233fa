# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From a :class:`~vmemscope.model.Report` to text.

* ``table``: all pagemaps in a table, totals, findings
* ``detail``: one pagemap with its first compound page drawn (``drawing``)
* ``document``: the JSON document ``vmemscope.pgmap/1`` and its schema
* ``output``: a file written whole or not at all

Nothing here reads a target or judges what was read.
"""

from .detail import render_one
from .document import SCHEMA, dump_json, render_json, schema_text, to_document
from .output import write_atomically
from .table import render_all

__all__ = (
    "SCHEMA",
    "dump_json",
    "render_all",
    "render_json",
    "render_one",
    "schema_text",
    "to_document",
    "write_atomically",
)
