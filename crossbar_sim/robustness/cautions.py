"""Sentences for the report: what was asked for and cannot act, and numbers that say less than they seem to."""

from collections.abc import Iterator

from crossbar_sim.nn.design_cautions import of_design as of_design
from crossbar_sim.nn.layer import Layer
from crossbar_sim.nn.train_checks import near_chance
from crossbar_sim.nn.unmapped import NO_OPERAND, Operands
from crossbar_sim.robustness.score import Reference, Score
from crossbar_sim.robustness.statistics import tail_caution


def of_operands(layers: tuple[Layer, ...], seen: Operands | None) -> Iterator[str]:
    """Weights that a forward does not multiply its inputs with, although their kind of layer should.

    Args:
        layers: of the model as it is deployed.
        seen: what its forward does with its parameters; None: that could not be seen.
    """
    if seen is None:
        yield (
            "which weights the forward multiplies its inputs with could not be seen (it fails when its operators are "
            "watched): every layer is taken for what its class usually does"
        )
    whose: dict[str, list[str]] = {}
    for layer in layers:
        reason = layer.reason.removesuffix("; drifts per parameter")
        if not layer.analog and any(said in reason for said in NO_OPERAND):
            whose.setdefault(reason, []).append(layer.name)
        for parameter, why in layer.left:
            if any(said in why for said in NO_OPERAND):
                whose.setdefault(why.removesuffix("; drifts per parameter"), []).append(
                    f"{layer.name}.{parameter}"
                )
    for reason, names in whose.items():
        yield f"{_listed(names)}: {reason}"
    if seen is None:
        return
    named = {name for names in whose.values() for name in names}
    past = [
        name
        for name, operand in seen.found.items()
        if (operand.also_past or operand.way in ("past", "kept")) and name.rpartition(".")[0] not in named
    ]
    if past and named != {layer.name for layer in layers}:
        yield f"{_listed(past)}: the forward also takes the clean values, past the array, which do not drift"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def of_state(names: tuple[str, ...]) -> Iterator[str]:
    """A forward that leaves something on its model."""
    if names:
        yield (
            f"the forward leaves {_listed([*names])} on the model: that is put back after every evaluation, and "
            "blocks of examples run one after the other"
        )


def of_reference(reference: Reference, metric: str, asked: str | None) -> Iterator[str]:
    """A clean model that cannot disagree with itself, and outputs that may be no classes, or not the ones meant."""
    clean, n = reference.clean, len(reference.x)
    if reference.several > 1:
        yield (
            f"the model returns {reference.several} outputs: the first, of shape {_returned(reference)}, is judged; "
            "wrap the model to return the one that counts"
        )
    if reference.mixed:
        yield (
            f"the outputs for an example depend on the others of its batch, by {reference.mixed:.1%} of the largest "
            f"output: scores depend on the size of the blocks of examples ({reference.fixed or reference.block} here)"
        )
    if reference.norm == 0:
        yield "the clean model's outputs are all zero on these inputs: nothing can differ from them"
    elif metric == "agreement" and n > 1 and bool((reference.predicted == reference.predicted[:1]).all()):
        yield f"the clean model gives all {n} examples one class: agreement with it says little (give --data)"
    unscaled = reference.x.is_floating_point() and float(reference.x.max()) > 2
    if (
        metric == "accuracy" and reference.y is not None and unscaled
    ):  # untrained networks are swept on purpose
        yield from near_chance(reference.clean_score().accuracy, reference.y, reference.x)
    if asked is None and metric == "agreement" and reference.unit in ("pixel", "position"):
        places = "x".join(map(str, clean.shape[2:]))
        yield (
            f"outputs of shape {_returned(reference)} are taken for scores of {clean.shape[1]} classes (axis "
            f"{reference.axis}) at each of {places} places; if they are not (an image, a signal), use --metric "
            "output_error, and name another axis with --class-axis"
        )


def of_tail(scores: tuple[Score, ...], metric: str) -> Iterator[str]:
    """Scores with a long tail, with which the interval of their mean is not exact (docs/statistics.md, section 8)."""
    found = tail_caution(abs(score.value(metric)) for score in scores)  # an error is shown as the error it is
    if found is not None:
        yield found


def of_places(reference: Reference) -> Iterator[str]:
    """Notes on how outputs with several places are judged."""
    yield from reference.notes
    judged = reference.about()
    if judged is None:
        return
    yield (
        f"each {judged['unit']} is judged by the largest of its {judged['classes']} outputs, along axis "
        f"{judged['class_axis']} of the model's outputs: {judged['count']:,} {judged['unit']}s"
        + (f", {judged['ignored']:,} with a negative label are not judged" if judged["ignored"] else "")
    )
    if reference.unit == "token" and reference.y is None:
        yield "without labels every token counts, padding too: give y with the label -100 at padding to leave it out"


def _returned(reference: Reference) -> tuple[int, ...]:
    """The shape of what the model returns for one example."""
    shape = reference.clean[:1]
    return tuple((shape if reference.axis is None else shape.movedim(1, reference.axis)).shape[1:])


def of_scores(scores: tuple[Score, ...], chips: tuple[int, ...]) -> Iterator[str]:
    """Outputs that are no numbers."""
    broken = [(chip, score.broken) for chip, score in zip(chips, scores, strict=True) if score.broken > 0]
    if broken:
        yield (
            f"outputs are not finite for up to {max(share for _, share in broken):.1%} of the examples, on "
            f"{len(broken)} of {len(scores)} chips (chip {broken[0][0]} first): those examples count as wrong"
        )
