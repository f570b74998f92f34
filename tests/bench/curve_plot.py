"""What `curves` found as one picture of two panels. The only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

if TYPE_CHECKING:
    from tests.bench.curves import Depth, Load

_RATE, _MEMORY, _GPU = "tab:blue", "tab:gray", "tab:green"
_LOADS = ("tab:orange", "tab:red", "tab:purple")


def draw(depths: Sequence[Depth], loads: Sequence[Load], path: Path) -> None:
    """Left: rate and memory by queue depth. Right: the share of requests answered within a time, for each load. No
    window is opened and no state of matplotlib is changed. The same figures make the same file."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _by_depth(left, depths)
    _by_load(right, loads)
    with mpl.rc_context({"svg.hashsalt": "curves", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _by_depth(axes: Axes, depths: Sequence[Depth]) -> None:
    queued = [one.queued for one in depths]
    lines = axes.plot(queued, [one.captions_per_s for one in depths], "o-", color=_RATE, label="captions per second")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(queued))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel="captions asked at once", ylabel="captions per second", title="Throughput and memory")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    memory = axes.twinx()
    lines += memory.plot(queued, [one.worker_mb for one in depths], "s--", color=_MEMORY, label="worker's memory")
    if any(one.gpu_mb for one in depths):
        lines += memory.plot(queued, [one.gpu_mb for one in depths], "^--", color=_GPU, label="GPU memory")
    memory.set_ylabel("memory, MB")
    memory.set_ylim(0, 1.25 * memory.get_ylim()[1])  # room above the line
    axes.legend(handles=lines, loc="lower right")


def _by_load(axes: Axes, loads: Sequence[Load]) -> None:
    for load, colour in zip(loads, _LOADS, strict=False):
        times_s = sorted(load.latencies_s)
        shares = [100 * (rank + 1) / len(times_s) for rank in range(len(times_s))]
        label = f"{load.share} of capacity, {load.per_s:.2g}/s: p50 {load.p50_s:.2g} s, p99 {load.p99_s:.2g} s"
        axes.step([0.0, times_s[0], *times_s], [0.0, 0.0, *shares], where="post", color=colour, label=label)
        axes.plot([load.p50_s, load.p99_s], [50, 99], "o", color=colour)
    axes.set(xlabel="latency, seconds", ylabel="requests answered, %", title="Latency under Poisson arrivals")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
