"""Choose a device model for measurements: the law, its parameters with intervals, and the quality of the fit."""

from dataclasses import dataclass, field, replace
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.configuration import to_dict, to_toml
from crossbar_sim.crossbar.device_fit import estimation
from crossbar_sim.crossbar.device_fit.estimation import Estimate, estimate, resampled
from crossbar_sim.crossbar.device_fit.measurements import LEAST_ROWS, Float64, Measurements, scattered
from crossbar_sim.crossbar.device_fit.quality import CUT, Quality, judge, plausible, screened
from crossbar_sim.crossbar.devices import MeasuredNoise, PolynomialNoise
from crossbar_sim.crossbar.drift import MeasuredRelaxation, RelaxationShift, RetentionDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

MOST_DEGREE = 4
ENOUGH = 20_000
"""Number of rows used to choose the form; the chosen form is fitted to all rows."""
SEARCHED = 4_000
"""Number of rows used to choose a relaxation that depends on the conductance."""
MOST_ROUNDS = 12
"""Number of rounds of outlier rejection."""
STRONG = 10.0
"""Difference of criteria that is very strong evidence (Kass and Raftery, JASA 90, 773, 1995)."""
RESAMPLED, SAMPLES = 20_000, 200
"""Largest number of rows for bootstrap intervals of correlated parameters, and the number of samples."""
MERGED = (
    "the times of the readings do not tell the spread of the relaxation at 1 s from the programming error (three times "
    "from 1 s on would, or two and readings before): sigma is taken as 0, and the spread later than the last reading "
    "is an upper limit"
)


@dataclass(frozen=True)
class Parameter:
    """One number of a device and its 95 % interval (infinite where the measurements do not determine it)."""

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
        law: "none", "relaxation", "measured_relaxation" or "retention".
        quality: what the residuals say.
        data: what it was fitted to.
        mean, spread: of the error of every row by the law, in S, (n,).
        warnings: what a user has to know beside the quality: readings below 0 S, what the times do not tell.
    """

    hardware: Hardware
    parameters: tuple[Parameter, ...]
    law: str
    quality: Quality
    data: Measurements = field(repr=False)
    mean: Float64 = field(repr=False)
    spread: Float64 = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def residuals(self) -> Float64:
        """Standardised residuals, (n,)."""
        return (self.data.measured - self.data.target - self.mean) / self.spread

    @property
    def notes(self) -> tuple[str, ...]:
        """The range of validity, and effects that are not modelled."""
        data = self.data
        times = f"{data.time.min():g} .. {data.time.max():g} s"
        independent = "every row counts as another cell" if data.cell is None else (
            f"{int(data.cell.max()) + 1} cells; intervals allow for readings of one cell going together"
        )  # fmt: skip
        out = int(np.count_nonzero(~plausible(data, self.residuals)))
        left_out = (f"{out} rows beyond {CUT:g} spreads took no part in the fit",) if out else ()
        return (
            f"measured: {data.target.size} rows, targets {data.target.min():g} .. {data.g_max:g} S, {times}",
            f"valid there, and not beyond; {independent}",
            "not modelled: read noise (it is part of the spread), stuck cells, correlations between cells",
            *left_out,
            *self.warnings,
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
        """The fit as JSON can hold it; an unbounded interval is null."""
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
            **({"warnings": list(self.warnings)} if self.warnings else {}),
            "hardware": to_dict(self.hardware),
        }


def fit_device(data: Measurements, law: str = "auto") -> DeviceFit:
    """Fit the mean and spread of the error against the target, and of its drift against time.

    The number of coefficients and, with "auto", the law are those of the least Bayesian information criterion. Rows
    far off (`quality.plausible`) take no part.

    Args:
        data: the measurements.
        law: "auto", "none", "relaxation" and "measured_relaxation" (need readings after 1 s) or "retention".

    Raises:
        InputError: for an unknown law, or one that the times do not determine.

    Warns:
        UserWarning: with every sentence of the result's `warnings`.
    """
    allowed = _laws(data, law)
    y = data.measured - data.target
    unit = 1.4826 * float(np.median(np.abs(y - np.median(y)))) or float(y.std()) or abs(float(y[0]))
    scales = estimation.Scales(data.g_max, unit)
    kept = screened(data)
    for _ in range(3):  # the form is chosen among the rows that take part, which the form decides
        before = kept
        form, start = _chosen(_part(data, kept), scales, allowed)
        found, kept = _settled(data, scales, form, start, kept)
        if np.mean(before != kept) < 0.005:
            break
    at = estimation.moments(form, data, scales, found.parameters)
    mean, spread = at.mean * unit, at.spread * unit
    values = found.parameters * estimation.in_units(form, scales)
    names = dict(zip(form.names, values.tolist(), strict=True))
    ends = _intervals(_part(data, kept), scales, form, found)
    parameters = tuple(
        Parameter(name, value, low, high, "" if form.law == "retention" and "nu" in name else "S")
        for (name, value), (low, high) in zip(names.items(), ends.tolist(), strict=True)
    )
    residuals = (y - mean) / np.maximum(spread, np.finfo(float).tiny)  # 0: no scatter at all
    quality = judge(data, residuals, found.converged)
    warnings = _warnings(data, form)
    if MERGED in warnings:
        quality = quality.lowered(MERGED)
    for sentence in warnings:
        warn(sentence, UserWarning, stacklevel=2)
    hardware = _hardware(form, names, data)
    return DeviceFit(
        hardware, _as_used(parameters, hardware), form.law, quality, data, mean, spread, warnings
    )


def _laws(data: Measurements, law: str) -> tuple[str, ...]:
    """The laws to choose from."""
    if law not in ("auto", *estimation.LAWS):
        raise InputError(f"law={law!r} is unknown; known: auto, {', '.join(estimation.LAWS)}")
    log = {name: estimation.logarithm(name, data) for name in ("relaxation", "retention")}
    able = [name for name, values in log.items() if np.unique(values).size > 1]
    if "relaxation" in able and estimation.separable(data) and np.unique(data.target).size > 1:
        able.append("measured_relaxation")
    if law not in ("auto", "none", *able):
        needs = {
            "relaxation": "readings at several times after 1 s",
            "retention": "readings at several times after the first one",
            "measured_relaxation": "several targets, and readings at three times from 1 s on or at two and before 1 s",
        }[law]
        raise InputError(
            f"law={law!r} needs {needs}: time_s goes from {data.time.min():g} s to {data.time.max():g} s"
        )
    return ("none", *able) if law == "auto" else (law,)


def _some(data: Measurements, most: int) -> Measurements:
    """At most about `most` rows, evenly spread over the table."""
    return data if data.target.size <= most else _part(data, scattered(data.target.size, most))


def _part(data: Measurements, rows: NDArray[np.bool_]) -> Measurements:
    cell = None if data.cell is None else np.unique(data.cell[rows], return_inverse=True)[1]
    return Measurements(data.target[rows], data.measured[rows], data.time[rows], cell)


def _estimate(
    data: Measurements, scales: estimation.Scales, form: estimation.Form, start: Float64
) -> Estimate:
    y = (data.measured - data.target) / scales.error
    return estimate(
        y, lambda theta: estimation.moments(form, data, scales, theta), start, data.cell, data.floored
    )


def _chosen(
    data: Measurements, scales: estimation.Scales, allowed: tuple[str, ...]
) -> tuple[estimation.Form, Float64]:
    """The form with the least criterion, of those that make a device, and its parameters on part of the rows."""
    few = _some(data, ENOUGH)
    form, start = _polynomials(few, scales)
    tried = []
    for name in allowed:
        if name == "measured_relaxation":
            constant = _with_law(form, "relaxation", few)
            tried += _by_conductance(
                few, scales, constant, _begin(few, scales, constant, start), len(allowed) == 1
            )
            if not estimation.early(
                few
            ):  # s(g) may be all of the spread at 1 s, and the programming error none
                exact = replace(constant, spread=0)
                begin = _begin(few, scales, exact, start[: form.mean])
                begin[-2] = start[form.mean]
                least = min((_criterion(found, few) for _, found in tried), default=np.inf)
                others = _by_conductance(few, scales, exact, begin, len(allowed) == 1)
                tried += [t for t in others if len(allowed) == 1 or _criterion(t[1], few) < least - STRONG]
        else:
            other = _with_law(form, name, few)
            tried.append((other, _estimate(few, scales, other, _begin(few, scales, other, start))))
    tried.sort(key=lambda t: _criterion(t[1], few))
    for one, found in tried[:-1]:
        values = found.parameters * estimation.in_units(one, scales)
        try:
            _hardware(one, dict(zip(one.names, values.tolist(), strict=True)), data)
        except InputError:  # an exponent that the law refuses
            continue
        return one, found.parameters
    return tried[-1][0], tried[-1][1].parameters


def _by_conductance(
    data: Measurements, scales: estimation.Scales, constant: estimation.Form, start: Float64, forced: bool
) -> list[tuple[estimation.Form, Estimate]]:
    """The best relaxation that depends on the conductance, by adding coefficients one at a time.

    None where the constant one is better, unless `forced`.
    """
    whole, data = data, _some(data, SEARCHED)
    most = min(MOST_DEGREE + 1, np.unique(data.target).size)
    best = _estimate(data, scales, constant, start)
    form, first = replace(constant, law="measured_relaxation"), True
    while True:
        tried = []
        for more_mean, more_spread in ((1, 0), (0, 1), (1, 1), (0, 2)):
            other = replace(
                form, drift_mean=form.drift_mean + more_mean, drift_spread=form.drift_spread + more_spread
            )
            if max(other.drift_mean, other.drift_spread) <= most:
                begin = dict.fromkeys(other.names, 0.0) | dict(zip(form.names, best.parameters, strict=True))
                tried.append((other, _estimate(data, scales, other, np.array(list(begin.values())))))
        settled = [
            t for t in tried if t[1].converged
        ]  # others have more coefficients than the readings determine
        better = min(settled, key=lambda t: _criterion(t[1], data), default=None)
        if better is None or (
            not (first and forced) and _criterion(better[1], data) >= _criterion(best, data)
        ):
            found = best if whole is data else _estimate(whole, scales, form, best.parameters)
            return [] if first else [(form, found)]
        (form, best), first = better, False


def _settled(
    data: Measurements,
    scales: estimation.Scales,
    form: estimation.Form,
    start: Float64,
    kept: NDArray[np.bool_],
) -> tuple[Estimate, NDArray[np.bool_]]:
    """The form fitted to the rows that it does not find far off, and which these are."""
    y, seen = (data.measured - data.target) / scales.error, []
    while True:
        found = _estimate(_part(data, kept), scales, form, start)
        seen.append(kept)
        at = estimation.moments(form, data, scales, found.parameters)
        kept = plausible(data, (y - at.mean) / np.maximum(at.spread, np.finfo(float).tiny))
        if any(np.array_equal(kept, one) for one in seen) or len(seen) == MOST_ROUNDS:
            return found, seen[-1]
        start = found.parameters


def _intervals(
    data: Measurements, scales: estimation.Scales, form: estimation.Form, found: Estimate
) -> Float64:
    """The 95 % intervals of the parameters, in their units, (p, 2)."""
    units = estimation.in_units(form, scales)
    half = 1.96 * np.sqrt(np.diag(found.covariance))
    ends = found.parameters[:, None] + np.array([-1.0, 1.0]) * half[:, None]
    own = [i for i, name in enumerate(form.names) if name.startswith(("drift.s", "drift.spread"))]
    if form.law in estimation.RELAXATIONS and not form.relaxed_at_once:
        ends[own[-1]] = _undetermined(data, scales, form, found.parameters, half[own[-1]])
    elif form.law in estimation.RELAXATIONS and not estimation.early(data) and data.target.size <= RESAMPLED:
        other = np.quantile(_bootstrap(data, scales, form, found, own), (0.025, 0.975), axis=0).T
        ends[own, 0] = np.fmin(ends[own, 0], other[:, 0])
        ends[own, 1] = np.fmax(ends[own, 1], other[:, 1])
    scaled: Float64 = ends * units[:, None]
    return scaled


def _bootstrap(
    data: Measurements, scales: estimation.Scales, form: estimation.Form, found: Estimate, own: list[int]
) -> Float64:
    """A relaxation's s and q in bootstrap samples of cells, with the sign of the estimate, (SAMPLES, own)."""
    cells = np.arange(data.target.size) if data.cell is None else data.cell
    number = int(cells.max()) + 1
    words = Stream.of(Key(0).fold("device_fit", "bootstrap"), 0).words(SAMPLES * number).astype(np.uint64)
    drawn = ((words * number) >> np.uint64(32)).astype(np.int64).reshape(SAMPLES, number)
    counts = np.stack([np.bincount(row, minlength=number) for row in drawn])
    y = (data.measured - data.target) / scales.error
    thetas = resampled(
        y, lambda t: estimation.moments(form, data, scales, t), found.parameters, cells, counts, data.floored
    )[:, own]
    late = np.sign(thetas @ _at_the_end(form, data)) * np.sign(
        found.parameters[own] @ _at_the_end(form, data)
    )
    signed: Float64 = thetas * np.where(late == 0, 1.0, late)[:, None]
    return signed


def _at_the_end(form: estimation.Form, data: Measurements) -> Float64:
    """What s and q are multiplied by in the spread at the last time and half of the largest conductance."""
    powers = 0.5 ** np.arange(form.drift_spread)
    return np.concatenate([powers, powers * float(estimation.logarithm(form.law, data).max())])


def _undetermined(
    data: Measurements, scales: estimation.Scales, form: estimation.Form, theta: Float64, half: float
) -> tuple[float, float]:
    """The interval of q where s and q cannot be separated: from the largest s that the spreads allow, to s = 0.

    With V the variance at the first reading and V + D at the last one, s and q of V >= s^2 and
    D = (s + q ln t)^2 - s^2 all describe the measurements alike.
    """
    q = abs(float(theta[-1]))
    if estimation.early(data):  # D may be all s
        return -half, q + half
    log = float(estimation.logarithm(form.law, data).max())
    first = replace(form, law="none")
    s = float(estimation.moments(first, data, scales, theta[: form.mean + form.spread]).spread.min())
    return (float(np.hypot(s, q * log)) - s) / log - half, q + half


def _warnings(data: Measurements, form: estimation.Form) -> tuple[str, ...]:
    """Notes for the user of the fit, in addition to its quality."""
    out = []
    if data.negative:
        out.append(
            f"{data.negative} of {data.target.size} readings lie below 0 S (down to {data.lowest:.3g} S, an offset of "
            "the instrument?): each counts as 0 S or below"
        )
    if form.law in estimation.RELAXATIONS and not form.relaxed_at_once:
        out.append(MERGED)
    return tuple(out)


def _criterion(found: Estimate, data: Measurements, together: bool = True) -> float:
    """The Bayesian information criterion; of readings of one cell, which go together, that of a composite likelihood.

    Just after programming a cell is mostly read once, and its readings are not `together`. Else there are as many
    observations as cells, and as many parameters as the trace of A^-1 B (Gao and Song, JASA 105, 1531, 2010), which
    is their number where readings are independent.
    """
    number, observations = float(found.parameters.size), data.target.size
    if together and data.cell is not None and np.isfinite(found.covariance).all():
        number = max(number, float(np.trace(found.covariance @ np.linalg.pinv(found.plain))))
        observations = int(data.cell.max()) + 1
    return found.objective + number * float(np.log(observations))


def _polynomials(data: Measurements, scales: estimation.Scales) -> tuple[estimation.Form, Float64]:
    """The best polynomials of the error just after programming, by adding coefficients one at a time."""
    # At 1 s a relaxation has begun, at its t0 a retention has not.
    first = (data.time <= estimation.begins("retention", data)) & (
        data.time < estimation.begins("relaxation", data)
    )
    if not first.any():
        first = data.time == data.time.min()
    if np.count_nonzero(first) < LEAST_ROWS:
        first = data.time <= np.quantile(data.time, 0.25)
    enough = np.count_nonzero(first) >= LEAST_ROWS and data.target[first].max() == data.g_max
    early = _part(data, first) if enough and not first.all() else data
    most = min(MOST_DEGREE + 1, np.unique(early.target).size)
    form, start = estimation.Form("none", 0, 1), np.ones(1)
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
                other = estimation.Form("none", mean, spread)
                tried.append((other, _estimate(early, scales, other, begin)))
        better = min(tried, key=lambda t: _criterion(t[1], early, False), default=None)
        if better is None or _criterion(better[1], early, False) >= _criterion(best, early, False):
            return form, best.parameters
        form, best = better


def _with_law(form: estimation.Form, law: str, data: Measurements) -> estimation.Form:
    return estimation.Form(
        law, form.mean, form.spread, law in estimation.RELAXATIONS and estimation.separable(data)
    )


def _begin(data: Measurements, scales: estimation.Scales, form: estimation.Form, start: Float64) -> Float64:
    """The start of the search: the polynomials found so far, and a small drift."""
    own = np.full(len(form.names) - start.size, 0.1)
    if own.size:
        y = (data.measured - data.target) / scales.error
        y = np.clip(y - np.median(y), -10, 10)
        log = estimation.logarithm(form.law, data)
        slope = float(np.polyfit(log, y, 1)[0])
        own[0] = -slope * 2 if form.law == "retention" else slope
    return np.concatenate([start, own])


def _hardware(form: estimation.Form, names: dict[str, float], data: Measurements) -> Hardware:
    g_min = float(data.target.min()) if np.float32(data.target.min()) < np.float32(data.g_max) else 0.0

    def polynomial(name: str) -> tuple[float, ...]:
        return tuple(value for key, value in names.items() if key.startswith(f"{name}["))

    mean, spread = polynomial("programming.mean"), polynomial("programming.coefficients") or (0.0,)
    noise = MeasuredNoise(spread, data.g_max, mean) if mean else PolynomialNoise(spread, data.g_max)
    drift: Any = None
    last = float(data.time.max())
    if form.law == "relaxation":
        sigma, per_ln = names.get("drift.sigma", 0.0), names["drift.sigma_per_ln"]
        sign = -1.0 if sigma + per_ln * np.log(last) < 0 else 1.0
        drift = RelaxationShift(last, names["drift.mean_per_ln"], sign * sigma, sign * per_ln)
    elif form.law == "measured_relaxation":
        parts = [polynomial(f"drift.{name}") for name in ("mean_per_ln", "spread", "spread_per_ln")]
        drift = MeasuredRelaxation(last, data.g_max, *parts)
        half = [sum(c * 0.5**k for k, c in enumerate(part)) for part in parts[1:]]
        if half[0] + half[1] * np.log(last) < 0:
            drift = replace(
                drift, spread=tuple(-c for c in parts[1]), spread_per_ln=tuple(-c for c in parts[2])
            )
    elif form.law == "retention":
        nu, nu_sigma = names["drift.nu"], abs(names["drift.nu_sigma"])
        drift = RetentionDrift(nu, last, estimation.begins("retention", data), nu_sigma)
    return Hardware(Differential(g_min, data.g_max), drift, noise)


def _as_used(parameters: tuple[Parameter, ...], hardware: Hardware) -> tuple[Parameter, ...]:
    """Spreads count by their square: the fit may find either sign, the device has the positive one."""
    out = []
    for p in parameters:
        used = p.value
        if p.name.startswith("drift."):
            name, _, place = p.name.removeprefix("drift.").partition("[")
            used = getattr(hardware.drift, name)
            used = used[int(place[:-1])] if place else used
        out.append(
            replace(p, value=used, low=-p.high, high=-p.low) if used * p.value < 0 else replace(p, value=used)
        )
    return tuple(out)
