"""The answer where networks were trained several times: which way to train holds longest, and how sure."""

import math
from collections.abc import Iterable, Sequence

from crossbar_sim.robustness.groups import compared, groups_in, unlike_tasks
from crossbar_sim.robustness.page.look import Names, Scale, percent, span_text
from crossbar_sim.robustness.page.numbers import overall, shared_sigmas
from crossbar_sim.robustness.statistics import mean_interval
from crossbar_sim.robustness.sweep import Sweep

ALPHA = 0.05
MOST = 4
"""Groups that are named one by one."""


def group_headline(sweep: Sweep, scale: Scale, where: str) -> str:
    """Which group has the best mean over the sigmas, and which others it cannot be told from.

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
        told = "; ".join(
            f"{names[group]} {_estimate(found, scale)}" for group, found in [*scores.items()][:MOST]
        )
        return (
            f"These ways to train were not measured alike ({', '.join(differ)} differ) and are not compared. Their "
            f"mean {scale.name} {where}: {told}{' and others' * (len(scores) > MOST)}."
        )
    best = max(scores, key=lambda group: _mean(scores[group]))
    superlative = "highest" if scale.more_is_better else "lowest"
    first = f"{names[best]} has the {superlative} mean {scale.name} {where}, {_estimate(scores[best], scale)}"
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
        others = "the other way" if len(tests) == 1 else f"any of {len(tests)} other ways"
        return f"{first}, and that is more than chance against {others} to train ({how}){rest}."
    return f"{first}, but cannot be told from {_listed(close)} ({how}){rest}."


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:MOST]) + " and others" * (len(every) > MOST)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _estimate(values: Sequence[float], scale: Scale) -> str:
    found = mean_interval(values)
    if found is None:
        return f"{percent(scale.shown(_mean(values)))} (one network: no interval over training seeds)"
    span = span_text(*scale.span(found.low, found.high))
    value = percent(scale.shown(found.estimate), found.half_width)
    return f"{value} (95 % interval over {len(values)} training seeds {span} %)"
