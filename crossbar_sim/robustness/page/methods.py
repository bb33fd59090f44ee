"""How each kind of number is made, in a line each; docs/statistics.md has the derivations."""

from collections.abc import Iterator

from crossbar_sim.robustness.groups import groups_in, seeded
from crossbar_sim.robustness.page import markup
from crossbar_sim.robustness.page.drawing import Subject
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.sweep_notes import tails
from crossbar_sim.robustness.variance_components import MOST_CHIPS

_CHIP = "The random unit is the chip: intervals tell what other chips of the same design would do, not other images."


def notes(subject: Subject) -> str:
    """The notes that this sweep needs, as a list."""
    points = [p for label in subject.sweep.labels for p in subject.sweep.curve(label)]
    several, drawn = any(len(p.chips) > 1 for p in points), any(p.drawn for p in points)
    compared, swept = len(subject.sweep.labels) > 1, len({p.sigma for p in points}) > 1
    lines = list(_of_seeds(subject.sweep)) if seeded(subject.sweep) else [_CHIP]
    lines.append("Chip i draws the same random numbers at every sigma and for every model.")
    if several and seeded(subject.sweep):
        lines.append(
            "Mean of a single network: over its chips, with a 95 % Student t interval: what other chips of the same "
            "design would do with that network. Spread: the standard deviation between chips."
        )
    elif several:
        lines.append(
            "Mean: over chips, with a 95 % Student t interval. Spread: the standard deviation between chips."
        )
    else:
        lines.append("One chip tells nothing about others: there is no interval.")
    lines += [f"Caution: {line}." for line in tails(subject.sweep.curves)]
    if drawn:
        lines.append(
            "Each chip saw images of its own, drawn by the seed: spread and yield are corrected for the scatter that "
            "drawing adds, median, worst and best chip are of the scores as measured."
        )
        spent = _spent(subject)
        if spent:
            lines.append(spent)
    kind = "an approximate 95 % interval" if drawn else "a 95 % Wilson interval"
    lines.append(f"Yield: the share of chips at the threshold or better, with {kind}.")
    if swept:
        lines.append(
            "Mean over the sigmas: the area under a chip's curve (trapezoids) over its width, then a t interval over "
            "chips. It depends on the sigmas: compare it over the same ones only."
        )
        lines.append(
            "Crossing: where the mean, linear between sigmas, first passes the threshold; its interval is where the "
            "band of the mean does."
        )
    if compared and not seeded(subject.sweep):
        lines.append(
            "Differences: Student's paired t on the chips that both models have, p-values corrected over the sigmas of "
            "a pair after Holm; the intervals shown are of each sigma by itself."
        )
    return markup.tag("ul", *(markup.tag("li", markup.prose(line)) for line in lines), class_="notes")


def _of_seeds(sweep: Sweep) -> Iterator[str]:
    """What is random where ways to train are compared."""
    yield (
        "The random unit of a way to train is the training seed: a network counts by its mean over chips, and "
        "intervals are Student's t over networks, for the chips at hand, which all networks share."
    )
    if len(groups_in(sweep)) > 1:
        yield (
            "Differences between ways to train: Welch's t over networks, p-values corrected over all sigmas and groups "
            "after Holm; the intervals shown are of each sigma by itself. Single networks are not tested against each "
            "other: their chips say nothing of what another training would have given."
        )


def _spent(subject: Subject) -> str:
    """What an interval budget took, where the plans came to their ends."""
    done = [
        p.done for label in subject.sweep.labels for p in subject.sweep.curve(label) if p.done is not None
    ]
    if not done:
        return ""
    spent, plain = (
        sum(cost.images for cost in costs) for costs in ([d.spent for d in done], [d.plain for d in done])
    )
    missed = sum(not d.reached for d in done)
    short = f" {missed} of {len(done)} points did not reach the precision asked for." if missed else ""
    if any(d.plain.chips >= MOST_CHIPS for d in done):  # where counting them stops
        return f"Spent: {spent:,} evaluations of an image; all images would need over {MOST_CHIPS:,} chips.{short}"
    return f"Spent: {spent:,} evaluations of an image, where all images on every chip needed would be {plain:,}.{short}"
