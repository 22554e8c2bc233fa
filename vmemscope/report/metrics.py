# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reports as OpenMetrics, described in ``docs/metrics.md``.

All metrics are gauges without timestamps. So Prometheus' older text format reads them as well,
which is what node_exporter's textfile collector takes.

The number of series is bounded, whatever the target has: by the catalogue of rules, and by
:data:`_PAGEMAPS` and :data:`_SIZES`. No label has an address, which changes with each boot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, get_args

from .. import rules
from ..errors import UsageError
from ..rules.findings import Outcome
from ..text import binary_size
from .documents.hugetlb import HugetlbReport
from .documents.memmap import MemmapReport
from .documents.pgmap import Report, State
from .documents.summary import SummaryLine, SummaryTarget
from .words import safe, verdict_of

try:
    from prometheus_client.core import CollectorRegistry, GaugeMetricFamily
    from prometheus_client.openmetrics.exposition import generate_latest
except ImportError as e:
    raise UsageError(
        "--format openmetrics needs prometheus_client", "pip install 'vmemscope[openmetrics]'"
    ) from e

if TYPE_CHECKING:
    from ..timing import Stopwatch
    from .documents.common import TargetReport
    from .documents.pgmap import PagemapReport

__all__ = ("render_openmetrics", "render_openmetrics_failure")

#: pagemaps, and sizes of huge pages, that have series of their own
_PAGEMAPS, _SIZES = 64, 16
#: characters of a name
_NAME = 64
#: label of pagemaps without a name, and of those that are too many
_UNNAMED, _OTHERS = "unnamed", "others"
_STATES: tuple[State, ...] = get_args(State)


def render_openmetrics(
    report: TargetReport, only: PagemapReport | None = None, *, watch: Stopwatch
) -> str:
    """
    Return a report as OpenMetrics.

    :param only: leave out the series of all other pagemaps
    :param watch: started with the audit
    """
    gauges = _summary(SummaryLine.about(report, verdict_of(report), watch), watch)
    gauges += _rules(report)
    if isinstance(report, Report):
        gauges += _pagemaps(report.pagemaps if only is None else (only,))
    elif isinstance(report, HugetlbReport):
        gauges += _hugetlb(report)
    elif isinstance(report, MemmapReport):
        gauges += _memmap(report)
    return _text(gauges)


def render_openmetrics_failure(
    audit: str, kind: str, path: str, error: str, *, watch: Stopwatch
) -> str:
    """
    Return the metrics of an audit that was not made, so that old ones do not stay.

    :param audit: name of the command
    :param kind, path: of the target
    :param error: why, in a sentence
    :param watch: started with the attempt
    """
    line = SummaryLine.failed(audit, SummaryTarget(kind=kind, path=path), error, watch)
    return _text(_summary(line, watch))


def _gauge(
    name: str, about: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    unit = next((unit for unit in ("bytes", "seconds") if name.endswith(f"_{unit}")), "")
    gauge = GaugeMetricFamily(f"vmemscope_{name}", about, labels=labels, unit=unit)
    for value_of, value in values:
        gauge.add_metric(value_of, value)
    return gauge


def _summary(line: SummaryLine, watch: Stopwatch) -> list[GaugeMetricFamily]:
    audit = (line.audit,)

    def gauge(name: str, about: str, value: float | None) -> GaugeMetricFamily:
        return _gauge(name, about, ("audit",), () if value is None else [(audit, value)])

    target = line.target
    names = ("audit", "version", "osrelease", "arch")
    info = (line.audit, line.tool.version, safe(target.osrelease or ""), safe(target.arch or ""))
    outcomes = zip(
        Outcome, (line.rules_checked, line.rules_skipped, line.rules_failed), strict=True
    )
    audited = line.error is None
    return [
        _gauge("audit_info", "Version of vmemscope, and the kernel", names, [(info, 1)]),
        gauge("audit_status", "Exit status: 0 sound, 1 errors, 3 no audit, 4 in part", line.status),
        gauge("audit_time_seconds", "When the audit started, since 1970", watch.started),
        gauge("audit_duration_seconds", "How long the audit took", line.seconds),
        gauge("not_read", "Things that could not be read", len(line.not_read) if audited else None),
        gauge(
            "findings_left_out",
            "Findings that the user left out",
            line.left_out.findings if audited else None,
        ),
        gauge("vmemmap_pages", "Base pages of vmemmap that were audited", line.read.pages),
        gauge("vmemmap_frames", "Frames behind them", line.read.frames),
        gauge("saved_bytes", "Memory that deduplication saves", line.saved_bytes),
        _gauge(
            "rules",
            "Rules by outcome",
            ("audit", "outcome"),
            [((line.audit, one.value), n) for one, n in outcomes if audited],
        ),
    ]


def _rules(report: TargetReport) -> list[GaugeMetricFamily]:
    """Return the findings of each rule that was evaluated, 0 where it holds."""
    found = Counter((one.rule, str(one.severity)) for one in report.every_finding())
    for one in report.all_outcomes():
        if one.outcome is not Outcome.SKIPPED and one.rule in rules.RULES:
            found[one.rule, str(rules.RULES[one.rule].severity)] += 0
    series = [((report.audit, *key), found[key]) for key in sorted(found)]
    return [_gauge("findings", "Findings", ("audit", "rule", "severity"), series)]


def _pagemaps(pagemaps: tuple[PagemapReport, ...]) -> list[GaugeMetricFamily]:
    """Return the sums over the pagemaps of each name."""
    by_name: dict[tuple[str, str], list[PagemapReport]] = {}
    for number, one in enumerate(sorted(pagemaps, key=lambda one: -one.vmemmap.pages)):
        key = (safe(one.name)[:_NAME] if one.name else _UNNAMED, one.type)
        if number >= _PAGEMAPS and key not in by_name:
            key = (_OTHERS, _OTHERS)
        by_name.setdefault(key, []).append(one)
    labels = ("pagemap", "type")
    states = (
        ((*key, state), sum(one.state == state for one in several))
        for key, several in by_name.items()
        for state in _STATES
    )
    return [
        _gauge(
            "pagemap_pages",
            "Base pages of vmemmap that describe it",
            labels,
            [(key, sum(one.vmemmap.pages for one in it)) for key, it in by_name.items()],
        ),
        _gauge(
            "pagemap_frames",
            "Frames behind them",
            labels,
            [(key, sum(one.frames.backing for one in it)) for key, it in by_name.items()],
        ),
        _gauge(
            "pagemap_saved_bytes",
            "Memory that deduplication saves",
            labels,
            [(key, sum(one.saved_bytes for one in it)) for key, it in by_name.items()],
        ),
        _gauge("pagemap_state", "Pagemaps of this name in this state", (*labels, "state"), states),
    ]


def _hugetlb(report: HugetlbReport) -> Iterator[GaugeMetricFamily]:
    """Return folios by size."""
    sizes = {(binary_size(one.size),): one for one in report.hstates[:_SIZES]}
    for name, about, attribute in (
        ("hugetlb_folios", "HugeTLB folios that were found", "folios"),
        ("hugetlb_optimized", "Those whose vmemmap is optimized", "optimized"),
        ("hugetlb_saved_bytes", "Memory that this saves", "saved_bytes"),
        ("hugetlb_savable_bytes", "Memory that optimizing the others would save", "savable_bytes"),
    ):
        series = [(key, getattr(one, attribute)) for key, one in sizes.items()]
        yield _gauge(name, about, ("size",), series)


def _memmap(report: MemmapReport) -> Iterator[GaugeMetricFamily]:
    """Return the memory map by the kind of what it describes."""
    for name, about, attribute in (
        ("memmap_described_bytes", "Memory that is described", "described_bytes"),
        ("memmap_pages", "Pages of vmemmap that describe it", "mapped"),
        ("memmap_frames", "Frames behind them", "frames"),
    ):
        summed: Counter[str] = Counter()
        for one in report.areas:
            summed[one.kind] += getattr(one, attribute)
        yield _gauge(name, about, ("kind",), [((kind,), n) for kind, n in summed.items()])


def _text(gauges: Iterable[GaugeMetricFamily]) -> str:
    shown = [one for one in gauges if one.samples]

    class Collector:
        def collect(self) -> list[GaugeMetricFamily]:
            return shown

    registry = CollectorRegistry()
    registry.register(Collector())
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()
