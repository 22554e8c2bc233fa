# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Draw time against size from the figures of ``python -m bench.layout -o FILE``.

Medians of ours, of reading the bytes, and of the per-page loop, on a logarithmic
scale; one panel for compound pages of 2 MiB and one for those of 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

_UNITS = {"G": 1, "T": 1024}
_LABELS = {
    "loop": "a loop over pages (scaled up)",
    "ours": "vmemscope: walk, frames, audit",
    "floor": "reading the same bytes",
}
_STYLES = {"guest": ("-", "o"), "simulated": ("--", "s")}


def draw(document: dict[str, Any], path: Path) -> None:
    """
    Draw the figures.

    :param document: as ``bench.layout`` writes it
    :param path: of the SVG file to write
    """
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "vmemscope"
    results = document["results"]
    aligns = sorted({one["align"] for one in results}, reverse=True)
    figure, panels = pyplot.subplots(
        1, len(aligns), figsize=(4.4 * len(aligns), 4.6), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for panel, align in zip(panels[0], aligns, strict=True):
        for color, (name, label) in enumerate(_LABELS.items()):
            for where, (line, marker) in _STYLES.items():
                points = sorted(
                    (
                        int(one["size"][:-1]) * _UNITS[one["size"][-1]],
                        statistics.median(one["seconds"][name]),
                    )
                    for one in results
                    if one["align"] == align and one["where"] == where
                )
                if points:
                    panel.plot(
                        *zip(*points, strict=True),
                        line,
                        marker=marker,
                        color=f"C{color}",
                        label=f"{label}, {where}",
                    )
        panel.set(
            title=f"compound pages of {align[:-1]} {align[-1]}iB",
            xlabel="device memory in GiB",
            xscale="log",
            yscale="log",
        )
        panel.grid(visible=True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("seconds")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", loc="lower center", ncols=2)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Draw a chart."""
    parser = argparse.ArgumentParser(prog="python -m bench.chart", description=__doc__)
    parser.add_argument("figures", type=Path, help="what bench.layout wrote")
    parser.add_argument("svg", type=Path, help="the chart")
    args = parser.parse_args()
    draw(json.loads(args.figures.read_text()), args.svg)


if __name__ == "__main__":
    main()
