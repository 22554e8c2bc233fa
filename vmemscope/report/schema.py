# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The JSON Schemas of all documents, derived from their types.

They are in the package as files, for use without Python. After a change of a type, update
them: ``python -m vmemscope.report.schema --write``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from ..fields import Address, Facts
from .documents.diff import Diff
from .documents.finding import FindingLine
from .documents.full import FullReport
from .documents.hugetlb import HugetlbReport
from .documents.memmap import MemmapReport
from .documents.page import PageReport
from .documents.pgmap import PagemapReport, Report
from .documents.rules import RuleList
from .documents.summary import SummaryLine
from .documents.survey import SurveyRecord

__all__ = ("FILES", "schema_of")

_DIRECTORY = Path(__file__).parent / "schema"

#: file -> the type of the document, the command that writes it, and where its fields are described
_DOCUMENTS: dict[str, tuple[type[Facts], str, str]] = {
    "pgmap-1": (Report, "pgmap --format json", "docs/json.md"),
    "finding-1": (FindingLine, "pgmap --format ndjson", "docs/formats.md"),
    "summary-1": (SummaryLine, "pgmap --format ndjson", "docs/formats.md"),
    "survey-1": (SurveyRecord, "survey -o FILE.ndjson", "docs/survey.md"),
    "memmap-1": (MemmapReport, "memmap --format json", "docs/memmap.md"),
    "hugetlb-1": (HugetlbReport, "hugetlb --format json", "docs/hugetlb.md"),
    "page-1": (PageReport, "page --format json", "docs/page.md"),
    "report-1": (FullReport, "report --format json", "docs/report.md"),
    "diff-1": (Diff, "diff --format json", "docs/diff.md"),
    "rules-1": (RuleList, "rules --format json", "docs/rules.md"),
}
FILES = {name: _DIRECTORY / f"{name}.schema.json" for name in _DOCUMENTS}

_ADDRESS = {
    "description": "A virtual or physical address in bytes, lower-case hex without leading zeros.",
    "type": "string",
    "pattern": "^0x(0|[1-9a-f][0-9a-f]{0,15})$",
}
#: fields that only documents of some kernels have
_OPTIONAL = {"device_frames", "device_tails", "shared_pages"}
#: of a field that no document has
_NEVER: dict[str, Any] = {"not": {}}
#: constraints that no type of a field expresses
_MORE: dict[type[Facts], dict[str, Any]] = {
    PagemapReport: {
        "if": {"properties": {"state": {"const": "deduplicated"}}},
        "then": {"properties": {"reason": {"type": "null"}}},
        "else": {"properties": {"reason": {"type": "string", "minLength": 1}}},
    }
}


def schema_of(name: str) -> str:
    """
    Return the text of a document's JSON Schema (2020-12), as strict as what is written.

    :param name: as in :data:`FILES`
    """
    document, command, described = _DOCUMENTS[name]
    schema = msgspec.json.schema(document, schema_hook=_custom)
    definitions = {one: _strict(schema["$defs"][one]) for one in schema["$defs"]}
    for kind, more in _MORE.items():
        if kind.__name__ in definitions:
            definitions[kind.__name__].update(more)
    name, version = name.rsplit("-", 1)
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:vmemscope:schema:{name}:{version}",
        "title": document.__struct_config__.tag,
        "description": f"What `vmemscope {command}` writes; {described} describes its fields.",
        "$ref": schema["$ref"],
        "$defs": definitions,
    }
    return json.dumps(whole, indent=2) + "\n"


def _custom(kind: type) -> dict[str, Any]:
    return _ADDRESS if kind is Address else _NEVER


def _strict(schema: Any) -> Any:
    """Return a schema that requires all fields and allows no others."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items() if key != "default"}
    if "properties" in found:
        found["properties"] = {k: v for k, v in found["properties"].items() if v != _NEVER}
        found["required"] = [one for one in found["properties"] if one not in _OPTIONAL]
        found["additionalProperties"] = False
    return found


def _written(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


if __name__ == "__main__":
    changed = [name for name, path in FILES.items() if _written(path) != schema_of(name)]
    for changed_one in changed if "--write" in sys.argv[1:] else ():
        FILES[changed_one].write_text(schema_of(changed_one), "utf-8")
    print(*changed or ["all are current"], sep="\n")
