"""From measurements to a device: which law, its parameters with intervals, and how good that is."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.config import to_dict, to_toml
from crossbar_sim.crossbar.device_fit import laws
from crossbar_sim.crossbar.device_fit.measurements import LEAST_ROWS, Float64, Measurements, scattered
from crossbar_sim.crossbar.device_fit.quality import Quality, judge
from crossbar_sim.crossbar.device_fit.robust import Estimate, estimate
from crossbar_sim.crossbar.devices import MeasuredNoise, PolynomialNoise
from crossbar_sim.crossbar.drift import RelaxationShift, RetentionDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.errors import InputError

MOST_DEGREE = 4
ENOUGH = 20_000
"""Rows that the search for a form looks at; the chosen form is fitted to all."""


@dataclass(frozen=True)
class Parameter:
    """One number of a device and its 95 % interval (infinite where the measurements do not tell)."""

    name: str
    value: float
    low: float
    high: float
    unit: str


@dataclass(frozen=True, eq=False)
class DeviceFit:
    """A device fitted to measurements.

    Args:
        hardware: the device as a design: its window is that of the targets, its time the last measured.
        parameters: what was fitted, in the design's units.
        law: "none", "relaxation" or "retention".
        quality: what the residuals say.
        data: what it was fitted to.
        mean, spread: of the error of every row by the law, in S, (n,).
    """

    hardware: Hardware
    parameters: tuple[Parameter, ...]
    law: str
    quality: Quality
    data: Measurements = field(repr=False)
    mean: Float64 = field(repr=False)
    spread: Float64 = field(repr=False)

    @property
    def residuals(self) -> Float64:
        """Standardised residuals, (n,)."""
        return (self.data.measured - self.data.target - self.mean) / self.spread

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the numbers hold, and what they leave out."""
        data = self.data
        times = f"{data.time.min():g} .. {data.time.max():g} s"
        independent = "every row counts as another cell" if data.cell is None else (
            f"{int(data.cell.max()) + 1} cells; intervals allow for readings of one cell going together"
        )  # fmt: skip
        return (
            f"measured: {data.target.size} rows, targets {data.target.min():g} .. {data.g_max:g} S, {times}",
            f"valid there, and not beyond; {independent}",
            "not modelled: read noise (it is part of the spread), stuck cells, correlations between cells",
        )

    def to_toml(self, source: str) -> str:
        """The device as a file for `--hardware`, its source and intervals in comments.

        Args:
            source: where the measurements are from, on one line.
        """
        lines = [f"fitted to {source}", *self.notes, self.quality.sentence, "parameters with 95 % intervals:"]
        lines += [
            f"  {p.name} = {p.value:.6g} {p.unit} ({p.low:.4g} .. {p.high:.4g})" for p in self.parameters
        ]
        return "".join(f"# {line}\n" for line in lines) + "\n" + to_toml(self.hardware)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an interval that the measurements do not bound is null."""
        return {
            "law": self.law,
            "rows": int(self.data.target.size),
            "parameters": [
                {
                    "name": p.name,
                    "value": p.value,
                    "interval": [p.low, p.high] if np.isfinite(p.low) and np.isfinite(p.high) else None,
                    "unit": p.unit,
                }
                for p in self.parameters
            ],
            "quality": self.quality.as_dict(),
            "notes": list(self.notes),
            "hardware": to_dict(self.hardware),
        }


def fit_device(data: Measurements, law: str = "auto") -> DeviceFit:
    """Fit the mean and spread of the error against the target, and of its drift against time.

    The number of coefficients and, with "auto", the law are those of the least Bayesian information criterion.

    Args:
        data: the measurements.
        law: "auto", "none", "relaxation" (needs readings after 1 s) or "retention".

    Raises:
        InputError: for an unknown law, or one that the times do not determine.
    """
    allowed = _laws(data, law)
    g_max = data.g_max
    y = data.measured - data.target
    unit = 1.4826 * float(np.median(np.abs(y - np.median(y)))) or float(y.std()) or abs(float(y[0]))
    scales = laws.Scales(g_max, unit)
    few = _some(data, ENOUGH)
    form, start = _polynomials(few, scales)
    forms = [_with_law(form, name, data) for name in allowed]
    begun = [_estimate(few, scales, f, _begin(few, scales, f, start)) for f in forms]
    best = _best(forms, begun, few, scales)
    form = forms[best]
    found = begun[best] if few is data else _estimate(data, scales, form, begun[best].parameters)
    at = laws.moments(form, data, scales, found.parameters)
    mean, spread = at.mean * unit, at.spread * unit
    units = laws.in_units(form, scales)
    values = found.parameters * units
    half = 1.96 * np.sqrt(np.diag(found.covariance)) * units
    names = dict(zip(form.names, values.tolist(), strict=True))
    parameters = tuple(
        Parameter(
            _full(name),
            v,
            v - h,
            v + h,
            "" if form.law == "retention" and name in ("nu", "nu_sigma") else "S",
        )
        for name, v, h in zip(form.names, values.tolist(), half.tolist(), strict=True)
    )
    residuals = (y - mean) / np.maximum(spread, np.finfo(float).tiny)  # 0: no scatter at all
    quality = judge(data, residuals, found.converged)
    hardware = _hardware(form, names, data)
    return DeviceFit(hardware, _as_used(parameters, hardware), form.law, quality, data, mean, spread)


def _laws(data: Measurements, law: str) -> tuple[str, ...]:
    """The laws to choose from."""
    if law not in ("auto", *laws.LAWS):
        raise InputError(f"law={law!r} is unknown; known: auto, {', '.join(laws.LAWS)}")
    log = {name: laws.logarithm(name, data) for name in ("relaxation", "retention")}
    able = tuple(name for name, values in log.items() if np.unique(values).size > 1)
    if law not in ("auto", "none", *able):
        after = "1 s" if law == "relaxation" else "the first one"
        raise InputError(
            f"law={law!r} needs readings at several times after {after}: time_s goes from {data.time.min():g} s "
            f"to {data.time.max():g} s"
        )
    return ("none", *able) if law == "auto" else (law,)


def _some(data: Measurements, most: int) -> Measurements:
    """About that many rows at most, evenly over the table."""
    return data if data.target.size <= most else _part(data, scattered(data.target.size, most))


def _part(data: Measurements, rows: NDArray[np.bool_]) -> Measurements:
    cell = None if data.cell is None else np.unique(data.cell[rows], return_inverse=True)[1]
    return Measurements(data.target[rows], data.measured[rows], data.time[rows], cell)


def _estimate(data: Measurements, scales: laws.Scales, form: laws.Form, start: Float64) -> Estimate:
    y = (data.measured - data.target) / scales.error
    return estimate(y, lambda theta: laws.moments(form, data, scales, theta), start, data.cell, data.floored)


def _best(forms: list[laws.Form], found: list[Estimate], data: Measurements, scales: laws.Scales) -> int:
    """The number of the form with the least criterion, of those that make a device."""
    order = sorted(range(len(forms)), key=lambda i: _criterion(found[i], data))
    for i in order[:-1]:
        values = found[i].parameters * laws.in_units(forms[i], scales)
        try:
            _hardware(forms[i], dict(zip(forms[i].names, values.tolist(), strict=True)), data)
        except InputError:  # an exponent beyond what the law takes
            continue
        return i
    return order[-1]


def _criterion(found: Estimate, data: Measurements) -> float:
    return found.objective + found.parameters.size * float(np.log(data.target.size))


def _polynomials(data: Measurements, scales: laws.Scales) -> tuple[laws.Form, Float64]:
    """The best polynomials of the error just after programming, by adding coefficients one at a time."""
    first = data.time <= min(laws.begins(name, data) for name in ("relaxation", "retention"))
    if np.count_nonzero(first) < 8:
        first = data.time <= np.quantile(data.time, 0.25)
    enough = np.count_nonzero(first) >= LEAST_ROWS and data.target[first].max() == data.g_max
    early = _part(data, first) if enough and not first.all() else data
    most = min(MOST_DEGREE + 1, np.unique(early.target).size)
    form, start = laws.Form("none", 0, 1), np.ones(1)
    best = _estimate(early, scales, form, start)
    while True:
        tried = []
        for mean, spread in (
            (form.mean + 1, form.spread),
            (form.mean, form.spread + 1),
            (form.mean + 1, form.spread + 1),
        ):
            if max(mean, spread) <= most:
                a, c = best.parameters[: form.mean], best.parameters[form.mean :]
                begin = np.concatenate([a, np.zeros(mean - form.mean), c, np.zeros(spread - form.spread)])
                other = laws.Form("none", mean, spread)
                tried.append((other, _estimate(early, scales, other, begin)))
        better = min(tried, key=lambda t: _criterion(t[1], early), default=None)
        if better is None or _criterion(better[1], early) >= _criterion(best, early):
            return form, best.parameters
        form, best = better


def _with_law(form: laws.Form, law: str, data: Measurements) -> laws.Form:
    before = law == "relaxation" and bool(np.count_nonzero(data.time < 1.0) >= 8)
    return laws.Form(law, form.mean, form.spread, before)


def _begin(data: Measurements, scales: laws.Scales, form: laws.Form, start: Float64) -> Float64:
    """Polynomials as found, and a drift that is there but small."""
    own = np.full(len(form.names) - start.size, 0.1)
    if own.size:
        y = (data.measured - data.target) / scales.error
        y = np.clip(y - np.median(y), -10, 10)
        log = laws.logarithm(form.law, data)
        slope = float(np.polyfit(log, y, 1)[0])
        own[0] = -slope * 2 if form.law == "retention" else slope
    return np.concatenate([start, own])


def _hardware(form: laws.Form, names: dict[str, float], data: Measurements) -> Hardware:
    g_min = float(data.target.min()) if np.float32(data.target.min()) < np.float32(data.g_max) else 0.0
    mean = tuple(names[f"mean{k}"] for k in range(form.mean))
    spread = tuple(names[f"spread{k}"] for k in range(form.spread))
    noise = MeasuredNoise(spread, data.g_max, mean) if mean else PolynomialNoise(spread, data.g_max)
    drift: Any = None
    last = float(data.time.max())
    if form.law == "relaxation":
        sigma, per_ln = names.get("sigma", 0.0), names["sigma_per_ln"]
        sign = -1.0 if sigma + per_ln * np.log(last) < 0 else 1.0
        drift = RelaxationShift(last, names["mean_per_ln"], sign * sigma, sign * per_ln)
    elif form.law == "retention":
        drift = RetentionDrift(names["nu"], last, laws.begins("retention", data), abs(names["nu_sigma"]))
    return Hardware(Differential(g_min, data.g_max), drift, noise)


def _as_used(parameters: tuple[Parameter, ...], hardware: Hardware) -> tuple[Parameter, ...]:
    """Spreads count by their square: the fit may find either sign, the device has the positive one."""
    out = []
    for p in parameters:
        used = (
            getattr(hardware.drift, p.name.removeprefix("drift."), p.value)
            if p.name.startswith("drift.")
            else p.value
        )
        out.append(
            replace(p, value=used, low=-p.high, high=-p.low) if used * p.value < 0 else replace(p, value=used)
        )
    return tuple(out)


def _full(name: str) -> str:
    """The parameter as the design has it: programming.mean[0], drift.nu."""
    if name.startswith("spread"):
        return f"programming.coefficients[{name[6:]}]"
    return f"programming.mean[{name[4:]}]" if name[4:].isdigit() else f"drift.{name}"
