"""The figure of a fit to device measurements."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossbar_sim.crossbar.device_fit import DeviceFit
from crossbar_sim.crossbar.device_fit.measurements import scattered
from crossbar_sim.report.figure import WIDTH, figure_style, save

SHOWN = 4000
"""Readings drawn; the law is fitted to all."""


def draw(fit: DeviceFit, path: str) -> None:
    """Draw errors against target and time with the law's band, and the residuals against a normal distribution.

    Raises:
        InputError: if the file cannot be written; what was there is unchanged.
    """
    with figure_style():
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, middle, right = figure.subplots(1, 3)
        _against_target(left, fit)
        _against_time(middle, fit)
        _quantiles(right, fit)
        save(figure, path, dpi=200)


def _some(fit: DeviceFit) -> Any:
    """Which readings are drawn."""
    return scattered(fit.data.target.size, SHOWN)


def _limits(axes: Any, errors: Any) -> None:
    """The middle 98 % with a margin: a few wild readings must not hide the rest."""
    low, high = np.quantile(errors, [0.01, 0.99])
    axes.set_ylim(low - 0.35 * (high - low), high + 0.35 * (high - low))


def _band(axes: Any, x: Any, fit: DeviceFit) -> None:
    """The law's mean and spread at the places x of the readings, averaged where several share one."""
    places, where = np.unique(x, return_inverse=True)
    if places.size > 60:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, 25)))
        where = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, edges.size - 2)
        count = np.bincount(where, minlength=edges.size - 1)
        places = np.bincount(where, x, edges.size - 1) / np.maximum(count, 1)
    count = np.maximum(np.bincount(where, minlength=places.size), 1)
    mean = np.bincount(where, fit.mean, places.size) / count
    second = np.bincount(where, fit.spread**2 + fit.mean**2, places.size) / count
    spread = np.sqrt(np.maximum(second - mean**2, 0))
    axes.fill_between(
        places, (mean - spread) * 1e6, (mean + spread) * 1e6, color="#b9cddd", alpha=0.7, lw=0,
        label="law, ±1 spread", zorder=2,
    )  # fmt: skip
    axes.plot(places, mean * 1e6, color="#4f81ad", lw=1.2, zorder=4)
    error = fit.data.measured - fit.data.target
    medians = [
        np.median(error[where == i]) * 1e6 if (where == i).any() else np.nan for i in range(places.size)
    ]
    axes.plot(places, medians, "o", color="#b5482f", ms=3, mew=0, label="measured, median", zorder=5)


def _against_target(axes: Any, fit: DeviceFit) -> None:
    data, part = fit.data, _some(fit)
    error = (data.measured - data.target) * 1e6
    axes.plot(data.target[part] * 1e6, error[part], ".", color="#555555", ms=1.5, alpha=0.4, mew=0, zorder=3)
    _band(axes, data.target * 1e6, fit)
    axes.axhline(0, color="#555555", lw=0.5)
    _limits(axes, error)
    axes.set(xlabel="target (µS)", ylabel="error (µS)", title="All times")
    axes.legend(frameon=False, fontsize=7, loc="best")


def _against_time(axes: Any, fit: DeviceFit) -> None:
    data, part = fit.data, _some(fit)
    positive = data.time[data.time > 0]
    first = float(positive.min()) / 3 if positive.size else 0.1
    time = np.where(data.time > 0, data.time, first)
    error = (data.measured - data.target) * 1e6
    axes.plot(time[part], error[part], ".", color="#555555", ms=1.5, alpha=0.4, mew=0, zorder=3)
    _band(axes, time, fit)
    axes.axhline(0, color="#555555", lw=0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    _limits(axes, error)
    zero = ", 0 s on the left" if (data.time == 0).any() else ""
    axes.set(xlabel=f"time since programming (s){zero}", title="All targets")


def _quantiles(axes: Any, fit: DeviceFit) -> None:
    from scipy import stats

    u = np.sort(fit.residuals)
    expected = stats.norm.ppf((np.arange(u.size) + 0.5) / u.size)
    keep = np.unique(np.linspace(0, u.size - 1, min(u.size, SHOWN)).astype(int))
    limit = min(max(4.0, float(np.abs(u).max()) * 1.05), 8.0)
    axes.plot([-limit, limit], [-limit, limit], color="#4f81ad", lw=1)
    axes.plot(expected[keep], np.clip(u[keep], -limit, limit), ".", color="#555555", ms=2.5, mew=0)
    axes.set(
        xlabel="normal quantile", ylabel="residual (spreads)", title=f"Residuals: fit is {fit.quality.grade}",
        xlim=(-4.2, 4.2), ylim=(-limit, limit),
    )  # fmt: skip
