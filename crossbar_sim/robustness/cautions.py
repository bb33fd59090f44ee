"""Sentences for the report: what was asked for and cannot act, and numbers that say less than they seem to."""

from collections.abc import Iterator

from crossbar_sim.crossbar.devices import PolynomialNoise
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.nn.layer import Layer
from crossbar_sim.robustness.score import Reference, Score
from crossbar_sim.robustness.statistics import tail_caution


def of_design(hardware: Hardware, layers: tuple[Layer, ...]) -> Iterator[str]:
    """Requests that change nothing in this design or model, and a fit used where it has no meaning."""
    mapping = hardware.mapping
    if not any(layer.analog for layer in layers):
        why = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:2])
        yield f"no layer is on an array, only digital parameters drift ({why})"
    if mapping.copies > 1 and not hardware.effects and not hardware.reading:
        yield f"copies={mapping.copies} does nothing where no effect acts on a cell"
    if hardware.normalisation == "folded" and not any("folded into" in layer.reason for layer in layers):
        yield "normalisation=folded was requested, but no batch normalisation alone follows a mapped layer"
    if hardware.drift_per == "weight" and mapping.planes_per_copy == 1:
        yield "drift_per=weight does nothing with the offset mapping: a weight is one cell there"
    if hardware.bias == "row":
        left = [layer.name for layer in layers if layer.analog and not any(s.bias for s in layer.matrices)]
        if left:
            yield f"bias=row adds no row in {', '.join(left)}: no bias, or one that cannot join its matrix"
    if isinstance(hardware.programming, PolynomialNoise):
        yield from _of_fit(hardware.programming, mapping.g_min, mapping.g_max)


def _of_fit(noise: PolynomialNoise, low: float, high: float) -> Iterator[str]:
    """A polynomial below 0 is used where it was not fitted; it counts as 0, which flatters the hardware."""
    for i in range(101):
        g = low + (high - low) * i / 100
        if sum(c * (g / noise.reference) ** k for k, c in enumerate(noise.coefficients)) < 0:
            yield (
                f"the programming noise's polynomial is negative at {g * 1e6:.3g} uS, inside the window of "
                f"{low * 1e6:.3g} to {high * 1e6:.3g} uS: cells there count as exact; keep to the fit's range"
            )
            return


def of_state(names: tuple[str, ...]) -> Iterator[str]:
    """A forward that leaves something on its model."""
    if names:
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        yield (
            f"the forward leaves {listed} on the model: that is put back after every evaluation, and blocks of "
            "examples run one after the other"
        )


def of_reference(reference: Reference, metric: str, asked: str | None) -> Iterator[str]:
    """A clean model that cannot disagree with itself, and outputs that may be no classes, or not the ones meant."""
    clean, n = reference.clean, len(reference.x)
    if reference.several > 1:
        yield (
            f"the model returns {reference.several} outputs: the first, of shape {tuple(clean.shape[1:])}, is judged; "
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
    if asked is None and metric == "agreement" and clean.dim() > 2:
        places = "x".join(map(str, clean.shape[2:]))
        yield (
            f"outputs of shape {tuple(clean.shape[1:])} are taken for scores of {clean.shape[1]} classes at each of "
            f"{places} places; if they are none (an image, a sequence), ask for --metric output_error"
        )


def of_tail(scores: tuple[Score, ...], metric: str) -> Iterator[str]:
    """Scores with a long tail, which make the interval of their mean too short (docs/statistics.md, section 8)."""
    found = tail_caution(abs(score.value(metric)) for score in scores)  # an error is shown as the error it is
    if found is not None:
        yield found


def of_scores(scores: tuple[Score, ...], chips: tuple[int, ...]) -> Iterator[str]:
    """Outputs that are no numbers."""
    broken = [(chip, score.broken) for chip, score in zip(chips, scores, strict=True) if score.broken > 0]
    if broken:
        yield (
            f"outputs are not finite for up to {max(share for _, share in broken):.1%} of the examples, on "
            f"{len(broken)} of {len(scores)} chips (chip {broken[0][0]} first): those examples count as wrong"
        )
