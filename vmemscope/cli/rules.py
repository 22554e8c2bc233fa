# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope rules``: list the rules, explain one."""

from __future__ import annotations

import argparse

from ..errors import ExitStatus, UsageError
from .common import columns, write
from .options import add_output_options

NAME = "rules"
HELP = "list the rules, explain a rule"
DESCRIPTION = """\
List the rules that findings name: what must hold, and how severe a violation is.
For each RULE given, show the kernels it applies to, its source in the kernel, what
a violation means, and what to check next.
"""
EXAMPLES = """\
examples:
  vmemscope rules                            all of them
  vmemscope rules compound-head              one, explained
  vmemscope rules --format json              for a program
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("rules", metavar="RULE", nargs="*", help="explain this rule")
    add_output_options(parser, ("text", "json"))


def run(args: argparse.Namespace) -> int:
    """Run this subcommand."""
    from ..report.catalogue import render_rule, render_rules, rule_list
    from ..rules import RULES

    unknown = [name for name in args.rules if name not in RULES]
    if unknown:
        raise UsageError(f"there is no rule {unknown[0]}", _hint(unknown[0], list(RULES)))
    rules = [RULES[name] for name in args.rules] or list(RULES.values())
    width = columns(args)
    if args.format == "json":
        from ..report import render_json

        text = render_json(rule_list(rules))
    elif args.rules:
        text = "\n".join(render_rule(rule, width) for rule in rules)
    else:
        text = render_rules(rules, width)
    write(text, args)
    return ExitStatus.SOUND


def _hint(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else "vmemscope rules lists them"
