"""The numbers of ways to train, where networks were trained several times: curves over seeds, and their tests."""

from crossbar_sim.robustness.groups import GroupPoint, GroupTest, group_curve, group_tests, groups_in
from crossbar_sim.robustness.page import markup
from crossbar_sim.robustness.page.drawing import Subject
from crossbar_sim.robustness.page.look import Names, number, sigma_text, span_text
from crossbar_sim.robustness.page.pair_chart import p_text
from crossbar_sim.robustness.wording import fixed, limit_text


def of_groups(subject: Subject, threshold: float | None) -> str:
    """One row per way to train and sigma; a network counts by its mean over chips."""
    groups = groups_in(subject.sweep)
    names = Names.of(list(groups)).whole
    limit = None if threshold is None else subject.scale.shown(threshold)
    header = [
        "sigma",
        "mean over networks",
        "95 % interval over seeds",
        "range over seeds",
        "spread of chips",
        "worst chip",
    ]
    if threshold is not None:
        header.append(f"yield at {limit_text(threshold, 0)}")
    bodies = [
        (
            f"{names[group]} ({_count(len(members))})",
            [_group_row(subject, point) for point in group_curve(subject.sweep, group, limit)],
        )
        for group, members in groups.items()
    ]
    return markup.table(
        f"{subject.scale.name} of each way to train, in %; the spread between the chips of one network in points",
        header,
        bodies,
    )


def of_group_tests(subject: Subject, reference: str) -> str:
    """Every other way to train against the reference, at each sigma; nothing where there is one way only.

    Raises:
        InputError: if the sweep has no such group.
    """
    tests = group_tests(subject.sweep, reference)
    names = Names.of(list(groups_in(subject.sweep))).whole
    bodies: dict[str, list[list[str]]] = {}
    for test in tests:
        title = f"{names[test.group]} less {names[reference]}"
        bodies.setdefault(title, []).append(_test_row(subject, test))
    if not bodies:
        return ""
    header = [
        "sigma",
        f"difference in {subject.scale.name} (points)",
        "95 % interval",
        "p",
        "p after Holm",
        "networks",
    ]
    return markup.table("Differences between ways to train", header, list(bodies.items()))


def _group_row(subject: Subject, point: GroupPoint) -> list[str]:
    scale = subject.scale
    span = None if point.ci95 is None else scale.span(*point.ci95)
    half = None if span is None else (span[1] - span[0]) / 2
    row = [
        sigma_text(point.sigma),
        number(scale.shown(point.mean), half),
        "one network: none" if span is None else span_text(*span),
        span_text(*scale.span(point.lowest, point.highest)) if point.networks > 1 else "",
        "" if point.spread is None else number(point.spread, point.spread),
        number(scale.shown(point.worst)),
    ]
    if point.passing is not None:
        row.append(fixed(point.passing, 0))
    return row


def _test_row(subject: Subject, test: GroupTest) -> list[str]:
    scale = subject.scale
    span = None if test.ci95 is None else scale.span(*test.ci95)
    half = None if span is None else (span[1] - span[0]) / 2
    return [
        sigma_text(test.sigma),
        number(scale.shown(test.difference), half),
        "no test" if span is None else span_text(*span),
        "" if test.p_value is None else p_text(test.p_value),
        "" if test.adjusted is None else p_text(test.adjusted),
        f"{test.networks[0]} and {test.networks[1]}",
    ]


def _count(networks: int) -> str:
    return "one network" if networks == 1 else f"{networks} training seeds"
