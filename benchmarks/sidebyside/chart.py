"""The run as a picture: CPU time a request, one bar a peer, forwarding only above and with features below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.sidebyside.measure import CONNECTIONS
from benchmarks.sidebyside.report import Run
from benchmarks.sidebyside.summary import Summary

#: Two colours of the Okabe-Ito palette, which people with any colour vision can tell apart, also in grey.
_OURS = "#0072B2"
_OTHERS = "#B8BEC4"
_INK = "#22262A"
_QUIET = "#5C6670"
_BAR_INCHES = 0.46
_TITLES = {"plain": "Forwards only", "full": "With features"}
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    # Text stays text: it can be searched, read aloud and scaled.
    "svg.fonttype": "none",
    "svg.hashsalt": "sidebyside",
}


def draw(run: Run, *targets: Path) -> None:
    """Write the chart, in the format of each target's suffix (.svg, .png)."""
    groups = {kind: _of_kind(run, kind) for kind in _TITLES}
    shown = {kind: summaries for kind, summaries in groups.items() if summaries}
    with mpl.rc_context(_STYLE):
        figure = _figure(run, shown)
        for target in targets:
            # Without a date the same figures give the same file.
            metadata = {"Date": None} if target.suffix == ".svg" else None
            figure.savefig(target, dpi=144, facecolor="white", metadata=metadata)


def _of_kind(run: Run, kind: str) -> list[Summary]:
    return sorted((summary for summary in run.summaries.values() if summary.kind == kind), key=lambda summary: summary.cpu_us)


def _figure(run: Run, shown: dict[str, list[Summary]]) -> Figure:
    bars = sum(map(len, shown.values()))
    height = 1.9 + 0.65 * len(shown) + _BAR_INCHES * bars
    figure = Figure(figsize=(11, height))
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=[len(group) for group in shown.values()])
    widest = max(summary.cpu_us_most for group in shown.values() for summary in group)
    for axes, (kind, group) in zip(panels[:, 0], shown.items(), strict=True):
        _panel(axes, _TITLES[kind], group, widest)
    panels[-1, 0].set_xlabel("CPU time a request, microseconds (less is better)", color=_INK, labelpad=8)
    figure.text(
        0.02, 1 - 0.3 / height, "CPU time a request, HMS Gateway and others", fontsize=15, fontweight="bold", color=_INK, va="center"
    )
    figure.text(0.02, 1 - 0.62 / height, _subtitle(run), fontsize=9.5, color=_QUIET, va="center")
    figure.subplots_adjust(left=0.35, right=0.975, top=1 - 1.2 / height, bottom=0.7 / height, hspace=0.65 * 2 / max(bars, 1) * 1.6)
    return figure


def _panel(axes: Axes, title: str, group: Sequence[Summary], widest: float) -> None:
    places = range(len(group))
    values = [summary.cpu_us for summary in group]
    spread = [[summary.cpu_us - summary.cpu_us_least for summary in group], [summary.cpu_us_most - summary.cpu_us for summary in group]]
    axes.barh(places, values, height=0.66, color=[_OURS if summary.ours else _OTHERS for summary in group])
    axes.errorbar(values, places, xerr=spread, fmt="none", ecolor=_INK, elinewidth=1, capsize=3)
    for place, summary in zip(places, group, strict=True):
        weight = "bold" if summary.ours else "normal"
        axes.text(summary.cpu_us_most + widest * 0.012, place, _value(summary), va="center", color=_INK, fontweight=weight)
        _label(axes, place, summary)
    axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=8)
    axes.set_xlim(0, widest * 1.24)
    axes.set_ylim(len(group) - 0.45, -0.55)
    axes.tick_params(axis="x", colors=_QUIET)
    axes.grid(axis="x", color="#E3E6E9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_OTHERS)


def _label(axes: Axes, place: int, summary: Summary) -> None:
    """Left of the bar: who it is and, where that differs from row to row, what it does."""
    full = summary.kind == "full"
    weight = "bold" if summary.ours else "normal"
    where = axes.get_yaxis_transform()
    axes.text(-0.015, place - (0.19 if full else 0), summary.title, transform=where, ha="right", va="center", color=_INK, fontweight=weight)
    if full:
        axes.text(-0.015, place + 0.21, summary.does, transform=where, ha="right", va="center", color=_QUIET, fontsize=8.5)


def _value(summary: Summary) -> str:
    if summary.ours or summary.ratio_to_ours is None:
        return f"{summary.cpu_us:.0f}"
    return f"{summary.cpu_us:.0f}  ({summary.ratio_to_ours:.1f} x ours)"


def _subtitle(run: Run) -> str:
    rounds = "1 round" if run.rounds == 1 else f"medians of {run.rounds} rounds, whiskers from least to most"
    return f"{rounds}, {CONNECTIONS} connections, small JSON, one core for each program; {run.machine.processor}, {run.started[:10]}"
