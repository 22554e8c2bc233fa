# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must hold of every answer, whatever the target is like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import jsonschema

from vmemscope.report import schema_text

from .child import Answer, Ran

__all__ = ("finding_keys", "problems", "problems_of")

#: sound, errors, usage, could not look, looked in part
_STATUSES = (0, 1, 2, 3, 4)
_LINES = re.compile(r"vmemscope: (error|note|warning): ")


@cache
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema_text(schema)))


def problems_of(answers: Sequence[Answer]) -> list[str]:
    """Find what is wrong with answers, in words."""
    return [f"{' '.join(one.arguments)}: {text}" for one in answers for text in _problems(one)]


def problems(ran: Ran) -> list[str]:
    """Find what is wrong with a run: of ``result``, what :func:`problems_of` returned."""
    found = list(ran.result or ())
    if ran.died:
        found.append(f"died: {ran.died}\n{ran.noise}")
    elif ran.noise:
        found.append(f"said past Python: {ran.noise!r}")
    return found


def _problems(answer: Answer) -> Iterator[str]:
    if answer.traceback or "internal error" in answer.err:
        yield f"{answer.err}\n{answer.traceback}"
        return
    if answer.status not in _STATUSES:
        yield f"status {answer.status}"
    yield from _unprintable("stdout", answer.out)
    yield from _unprintable("stderr", answer.err)
    lines = answer.err.splitlines()
    errors = [line for line in lines if line.startswith("vmemscope: error: ")]
    if answer.status in (2, 3):
        if len(errors) != 1 or lines[-1:] != errors:
            yield f"status {answer.status} with {answer.err!r}"
        # Each audit leaves a record, also one that failed.
        if answer.out and "ndjson" not in answer.arguments:
            yield f"status {answer.status}, and on stdout {answer.out[:200]!r}"
        return
    if errors:
        yield f"status {answer.status} with {answer.err!r}"
    if any(not _LINES.match(line) for line in lines):
        yield f"on stderr: {answer.err!r}"
    if "Traceback" in answer.out + answer.err:
        yield "a traceback"
    yield from _malformed(answer)


def _unprintable(where: str, text: str) -> Iterator[str]:
    found = sorted({char for char in text if char != "\n" and not char.isprintable()})
    if found:
        yield f"{found} on {where}: {text[:200]!r}"


def _malformed(answer: Answer) -> Iterator[str]:
    arguments = answer.arguments
    form = arguments[arguments.index("--format") + 1] if "--format" in arguments else None
    if form == "json":
        yield from _not_json(answer.out)
    elif form == "ndjson":
        for line in answer.out.splitlines():
            yield from _not_json(line)
    elif form == "ktap":
        yield from _not_ktap(answer.out)
    elif arguments[0] != "vmcoreinfo" and not answer.out.strip():
        yield "no output"


def _not_json(text: str) -> Iterator[str]:
    try:
        document = json.loads(text, parse_constant=lambda name: _no_constant(name))
    except ValueError as e:
        yield f"no JSON: {e}: {text[:200]!r}"
        return
    for error in _validator(document["schema"]).iter_errors(document):
        yield f"not as its schema says: {error.json_path}: {error.message[:200]}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_KTAP = re.compile(r"(  )*(KTAP version 1|1\.\.\d+|(not )?ok \d+ \S.*|# .*)")


def _not_ktap(text: str) -> Iterator[str]:
    lines = text.splitlines()
    if lines[:1] != ["KTAP version 1"]:
        yield f"no KTAP: {text[:200]!r}"
    for line in lines:
        if not _KTAP.fullmatch(line):
            yield f"no line of KTAP: {line!r}"
    # At each depth, as many results as the plan says.
    plan, seen = None, 0
    for line in lines:
        if match := re.fullmatch(r"1\.\.(\d+)", line):
            plan = int(match[1])
        elif re.match(r"(not )?ok \d+", line):
            seen += 1
    if plan != seen:
        yield f"KTAP with a plan of {plan} and {seen} results"


def finding_keys(document: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Return the findings of a document: (pagemap or None, rule, vaddr, pfn)."""
    groups = [(None, document.get("findings", []))]
    groups += [(one["address"], one["findings"]) for one in document.get("pgmaps", [])]
    return {
        (pagemap, one["rule"], one["vaddr"], one["pfn"])
        for pagemap, findings in groups
        for one in findings
    }
