"""The first sentences of a report: which model, or which way to train, is the most robust, and how certain that is."""

import math
from collections.abc import Iterable, Iterator, Sequence

from crossbar_sim.nn.analog.multiply_adds import LITTLE, share_words
from crossbar_sim.report.formatting import Names, Scale, sigma_text
from crossbar_sim.report.ranking import Overall, ahead, differing, once, overall, ranked, shared_sigmas
from crossbar_sim.report.rows import ALPHA, View, default_threshold
from crossbar_sim.robustness.curves import Crossing
from crossbar_sim.robustness.groups import compared, groups_in, seeded, unlike_tasks
from crossbar_sim.robustness.statistics import Interval, mean_interval, percentile
from crossbar_sim.robustness.sweep import Sweep, share_on_arrays

MOST = 4
"""Groups that are named one by one."""


def group_headline(sweep: Sweep, scale: Scale, where: str) -> str:
    """Which group has the best mean over the sigmas, and from which others it does not differ significantly.

    The random unit is the training seed: a network counts by its mean over chips and sigmas, groups are compared by
    Welch's t with Holm's correction over all others.

    Args:
        sweep: with several networks in a group at least.
        scale: of its metric.
        where: the sigmas, in words.
    """
    groups, sigmas = groups_in(sweep), shared_sigmas(sweep)
    names = Names.of(list(groups)).whole
    if not sigmas:
        return f"{_listed(names.values())} were measured at no common sigma, so that they are not compared."
    scores = {
        group: [overall(sweep, label, sigmas).estimate for label in members]
        for group, members in groups.items()
    }
    if differ := unlike_tasks(sweep.tasks.values()):
        words = "; ".join(
            f"{names[group]} {_group_estimate(found, scale)}" for group, found in [*scores.items()][:MOST]
        )
        return (
            f"These ways to train were not measured alike ({', '.join(differ)} differ) and are not compared. Their "
            f"mean {scale.name} {where}: {words}{' and others' * (len(scores) > MOST)}."
        )
    best = max(scores, key=lambda group: _mean(scores[group]))
    superlative = "highest" if scale.more_is_better else "lowest"
    first = f"{names[best]} has the {superlative} mean {scale.name} {where}, {_group_estimate(scores[best], scale)}"
    if len(groups) == 1:
        return f"{first}."
    every = compared({group: {0.0: values} for group, values in scores.items()}, best)
    tests = [test for test in every if test.adjusted is not None]
    close = [names[test.group] for test in tests if test.adjusted is None or test.adjusted >= ALPHA]
    single = [names[test.group] for test in every if test.adjusted is None]
    how = "Welch's t over networks" + (", Holm's correction" if len(tests) > 1 else "")
    rest = f"; {_listed(single)} cannot be tested without a spread between networks" if single else ""
    if not tests:
        return f"{first}{rest}."
    if not close:
        others = "the other way" if len(tests) == 1 else f"all {len(tests)} other ways"
        return f"{first}, and differs significantly from {others} to train ({how}){rest}."
    return f"{first}, but does not differ significantly from {_listed(close)} ({how}){rest}."


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:MOST]) + " and others" * (len(every) > MOST)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _group_estimate(values: Sequence[float], scale: Scale) -> str:
    found = mean_interval(values)
    if found is None:
        return f"{scale.text(scale.shown(_mean(values)))} (one network: no interval over training seeds)"
    value, span = _with_span(found, scale)
    return f"{value} (95 % interval over {len(values)} training seeds {span}{scale.unit})"


def _with_span(found: Interval, scale: Scale) -> tuple[str, str]:
    """A score with its unit, and both ends of its interval without it."""
    low, high = scale.span(found.low, found.high)
    half = (high - low) / 2
    return scale.text(scale.shown(found.estimate), half), scale.span_text(low, high)


# Sentences on models.


MOST_CROSSINGS = 3
"""Models whose crossings are sentences; those of the others are in the table."""

MOST_APART = 4
"""Models that are named one by one."""

MOST_SIGMAS = 6
"""Sigmas that are listed one by one."""


def percentile_words(percent: float, scale: Scale, drawn: bool) -> str:
    """What the percentile in a table is; `drawn`: whether a score is of images drawn for each chip."""
    which = "" if scale.more_is_better else f", the {100 - percent:g} % quantile of the errors"
    text = (
        f"All but {percent:g} %: the score that {100 - percent:g} % of the chips reach{which}, with its 95 % interval "
        f"by order statistics; it has both ends from {percentile((0.0,), percent).needed:,} chips on."
    )
    if drawn:
        text += " Of scores on drawn images it is not given."
    return text


def group_percentile_words(percent: float) -> str:
    """What the percentile in a table of groups is."""
    return (
        f"all but {percent:g} %: the score that {100 - percent:g} % of a network's chips reach, its mean over networks "
        "and its 95 % Student-t interval over networks"
    )


def sentence(share: float) -> str:
    """ "93.2 % of its multiply-adds run on arrays." """
    words = share_words(share)
    return f"{words[:1].upper()}{words[1:]}."


def shares(sweep: Sweep) -> tuple[list[str], list[str]]:
    """Which share of the work is on arrays: sentences, and those of small shares as warnings."""
    whole, models = Names.of(sweep.labels).whole, dict[float, list[str]]()
    for label, task in sweep.tasks.items():
        share = share_on_arrays(task)
        if share is not None:
            models.setdefault(share, []).append(whole[label])
    plain: list[str] = []
    small: list[str] = []
    for share in sorted(models, reverse=True):
        whose = "Every model" if len(models[share]) == len(sweep.labels) else _listed(models[share])
        words = sentence(share) if len(sweep.labels) == 1 else f"{whose}: {share_words(share)}."
        (small if share < LITTLE else plain).append(words)
    return plain, small


def answer(sweep: Sweep, threshold: float | None) -> list[str]:
    """The sentences for a terminal; `threshold` as for a page."""
    limit = default_threshold(sweep) if threshold is None else threshold
    plain, small = shares(sweep)
    return [*headline(View(sweep, limit)), *plain, *small, *mixed_words(sweep)]


def mixed_words(sweep: Sweep) -> list[str]:
    """A warning if anything but the model differs between the tasks; else nothing."""
    mixed = differing(sweep)
    return (
        [f"These models were not measured alike. What differs between them: {', '.join(mixed)}."]
        if mixed
        else []
    )


def headline(view: View) -> list[str]:
    """The sentences at the top of the page: on groups of training seeds where there are any, else on models.

    Args:
        view: of a sweep in which every model has a point; its threshold is mentioned unless it is None.
    """
    names, scale, sweep = view.names, view.scale, once(view.sweep)
    again = [names.whole[label] for label in view.sweep.labels if label not in sweep.labels]
    left = [f"Measured on other images as well, and not ranked: {', '.join(again)}."] if again else []
    if seeded(sweep):
        return [group_headline(sweep, scale, _where(sweep)), *left]
    order, ranked_view = ranked(sweep), View(sweep, view.threshold)
    if len(order) == 1:
        sentences = [_alone(sweep, order[0][0], order[0][1], names, scale)]
    else:
        sentences = [_best(ranked_view, order, names, scale)]
    words = list(_falls(ranked_view, [label for label, _ in order[:MOST_CROSSINGS]], names, scale))
    if words:
        sentences.append(f"{'; '.join(words)}.")
    return [*sentences, *left]


def _alone(sweep: Sweep, label: str, found: Overall, names: Names, scale: Scale) -> str:
    clean = scale.shown(sweep.tasks[label].clean)
    return (
        f"{names.whole[label]} has a mean {scale.name} of {_estimate(found, scale)} {_where(sweep)}, "
        f"against {scale.text(clean)} clean."
    )


def _best(view: View, order: list[tuple[str, Overall]], names: Names, scale: Scale) -> str:
    """The best model, and whether its paired differences to all others are significant."""
    sweep = view.sweep
    (best, found), (second, next_best), *_ = order
    if not shared_sigmas(sweep):
        return _apart(sweep, order, names, scale)
    others = [label for label, _ in order[1:]]
    level = 1 - ALPHA / len(others)  # Bonferroni: one claim on all of them
    leads = {label: ahead(sweep, best, label, level) for label in others}
    close = [label for label in others if not _clear(leads[label])]
    what = f"mean {scale.name} {_where(sweep)}"
    first, runner = names.whole[best], names.whole[second]
    if found.interval is None and next_best.interval is None:
        return (
            f"{first} has the {_superlative(scale)} {what}: {_estimate(found, scale)}, before {runner} with "
            f"{_estimate(next_best, scale)}; with one chip, the significance of the difference is unknown."
        )
    if not close:
        words = "" if len(others) == 1 else f", the next of {len(others)} others"
        return (
            f"{first} is the most robust: its {what} is {_estimate(found, scale)}, {_lead(leads[second], scale)} "
            f"than that of {runner}{words}{_adjusted(len(others))}."
        )
    if len(others) == 1:
        if leads[second] is None:
            other = "other chips or other data" if sweep.unlike(best, second) else "other chips"
            return (
                f"{first} and {runner} were measured on {other} and are not compared chip by chip: "
                f"their {what} is {_estimate(found, scale)} and {_estimate(next_best, scale)}."
            )
        alone = _at_single_sigmas(view, best, [second], names)
        over = "" if not alone else " by their mean over the sigmas"
        return (
            f"{first} and {runner} do not differ significantly{over}: their {what} is {_estimate(found, scale)} and "
            f"{_estimate(next_best, scale)}{_difference(leads[second], scale)}.{alone}"
        )
    apart = [label for label in others if leads[label] is None]
    listed = ", ".join(names.whole[label] for label in close[:4]) + (" and others" if len(close) > 4 else "")
    if apart:
        return (
            f"{first} has the {_superlative(scale)} {what}, {_estimate(found, scale)}; it does not differ "
            f"significantly from, or was not measured on the same chips and data as, {listed}{_adjusted(len(others))}."
        )
    return (
        f"{first} has the {_superlative(scale)} {what}, {_estimate(found, scale)}, but does not differ "
        f"significantly from {listed} on the same chips{_adjusted(len(others))}."
        f"{_at_single_sigmas(view, best, close, names)}"
    )


def _at_single_sigmas(view: View, best: str, close: list[str], names: Names) -> str:
    """A sentence on the sigmas at which models differ whose means over the sigmas do not; empty where there is none."""
    parts = []
    for label in close[:MOST_APART]:
        found = [row for row in view.pair(best, label) if row.significant]
        if found and len(shared_sigmas(view.sweep)) > 1:
            p_values = [row.adjusted for row in found if row.adjusted is not None]
            listed = listed_sigmas([row.sigma for row in found])
            parts.append(f"from {names.whole[label]} at {listed} ({_p_words(p_values)})")
    if not parts:
        return ""
    return f" At single sigmas {names.whole[best]} differs {'; '.join(parts)}, paired t, Holm-corrected."


def listed_sigmas(sigmas: list[float]) -> str:
    """ "sigma 0.3", "sigma 0.3 and 0.6", "sigma 0.1, 0.2, 0.3 and 4 more up to 1.2" """
    shown = [sigma_text(sigma) for sigma in sigmas]
    if len(shown) > MOST_SIGMAS:
        more = len(shown) - MOST_SIGMAS + 1
        return f"sigma {', '.join(shown[: MOST_SIGMAS - 1])} and {more} more up to {shown[-1]}"
    return f"sigma {', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else f"sigma {shown[0]}"


def _p_words(values: list[float]) -> str:
    """ "p = 0.0029", of several "p at most 0.0029" """
    if max(values) < 1e-4:
        return "p < 0.0001"
    return f"p {'=' if len(values) == 1 else 'at most'} {max(values):.2g}"


def _apart(sweep: Sweep, order: list[tuple[str, Overall]], names: Names, scale: Scale) -> str:
    """Models that share no sigma, each by itself."""
    words = []
    for label, found in order[:MOST_APART]:
        first, last = (sigma_text(sweep.curve(label)[end].sigma) for end in (0, -1))
        where = f"over sigma {first} to {last}" if first != last else f"at sigma {first}"
        words.append(f"{names.whole[label]} has {_estimate(found, scale)} {where}")
    more = f"; and {len(order) - len(words)} others" if len(order) > len(words) else ""
    return (
        f"These models were measured at no common sigma and are not compared. Their mean {scale.name}: "
        f"{'; '.join(words)}{more}."
    )


def _falls(view: View, labels: list[str], names: Names, scale: Scale) -> Iterator[str]:
    """Where the means cross the threshold."""
    if view.threshold is None:
        return
    verb = "falls below" if scale.more_is_better else "rises above"
    first = True
    for label in labels:
        found = view.crossings[label]
        if found is None:
            continue
        begin = "The mean of" if first else "that of"
        verb_phrase = f"{verb} {scale.limit_text(view.threshold, 0)} " if first else ""
        yield f"{begin} {names.whole[label]} {verb_phrase}{crossing_words(found)}"
        first = False


def crossing_words(found: Crossing) -> str:
    """Where a curve crosses: "at sigma 0.31 (0.29 to 0.33)"."""
    first, last = (sigma_text(end) for end in found.range)
    if found.where == "below":
        return f"before sigma {first}, the first one{_open(found)}"
    if found.where == "beyond":
        return f"nowhere up to sigma {last}{_open(found)}"
    return f"at sigma {found.sigma:.3g}{_open(found)}"


def _open(found: Crossing) -> str:
    first, last = (sigma_text(end) for end in found.range)
    if not found.known or (found.where == "beyond" and found.low is None):
        return ""
    if found.where == "below" and found.high == found.range[0]:  # and so is the whole interval
        return ""
    if found.where == "beyond":
        return f" (95 % interval from {found.low:.3g})" if found.low != found.range[1] else ""
    low = f"below {first}" if found.low is None else f"{found.low:.3g}"
    high = f"beyond {last}" if found.high is None else f"{found.high:.3g}"
    return f" ({low} to {high})"


def _where(sweep: Sweep) -> str:
    sigmas = shared_sigmas(sweep)
    if len(sigmas) == 1:
        return f"at sigma {sigma_text(sigmas[0])}"
    if not sigmas:
        return "over the sigmas of each"
    return f"over sigma {sigma_text(sigmas[0])} to {sigma_text(sigmas[-1])}"


def _estimate(found: Overall, scale: Scale) -> str:
    if found.interval is None:
        return f"{scale.text(scale.shown(found.estimate))} (one chip: no interval)"
    value, span = _with_span(found.interval, scale)
    return f"{value} (95 % interval {span}{scale.unit})"


def _clear(lead: Overall | None) -> bool:
    return lead is not None and lead.interval is not None and lead.interval.low > 0


def _lead(lead: Overall | None, scale: Scale) -> str:
    """ "5.1 points (4.6 to 5.6) more" """
    assert lead is not None  # for a clear one
    assert lead.interval is not None
    return f"{points(lead.interval, scale)} {'more' if scale.more_is_better else 'less'}"


def _difference(lead: Overall | None, scale: Scale) -> str:
    return (
        ""
        if lead is None or lead.interval is None
        else f", a difference of {points(lead.interval, scale)} on the same chips"
    )


def points(interval: Interval, scale: Scale) -> str:
    """A difference with its interval: "5.1 points (4.6 to 5.6)", "0.21 K (0.1 to 0.32)"; of a logarithm in nats."""
    step = f" {scale.step}" if scale.step else ""
    value = scale.number(interval.estimate, interval.half_width)
    return f"{value}{step} ({scale.span_text(*scale.difference_span(interval.low, interval.high))})"


def _superlative(scale: Scale) -> str:
    return "highest" if scale.more_is_better else "lowest"


def _adjusted(others: int) -> str:
    return "" if others == 1 else f" (intervals of differences at 95 % for all {others} together)"
