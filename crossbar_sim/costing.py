"""What the command cost does, between options and printing."""

from typing import Any

from rich.console import Console
from rich.table import Table

from crossbar_sim.crossbar import cost as costs
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json
from crossbar_sim.nn import layers as layers_of
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.chips import slots
from crossbar_sim.nn.loading import LoadedModel
from crossbar_sim.nn.reads import Reads, reads_per_inference
from crossbar_sim.robustness.examples import find_examples, seen_in
from crossbar_sim.robustness.wording import say, terminal

ESTIMATE = (
    "An estimate to first order, from published components and counts: good for comparing designs, to a factor "
    "of two or so, not for signing one off."
)


def run_cost(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    preset: str | None,
    technology: str | None,
    node_nm: float | None,
    cycle_ns: float | None,
    inputs: tuple[str | None, ...],
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    json_path: str | None,
) -> None:
    """Count, estimate, print, and write what was asked for; see `crossbar-sim cost --help`.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the work.
    """
    check_outputs((json_path,), inputs, stream=json_path)
    chosen = _technology(technology, preset, node_nm, cycle_ns)
    works, notes = count(loaded, hardware, data, data_dir, input_shape, only, skip)
    each = [costs.cost_of(work, hardware, chosen) for work in works]
    whole = costs.total(each)
    converters = costs.Converters.of(hardware)
    energy, area, rate, source = costs.adc_of(converters, hardware.tile[1], chosen)
    notes += converters.notes
    report = {
        "note": ESTIMATE,
        "technology": {"name": chosen.name, "title": chosen.title},
        "total": whole.as_dict(),
        "layers": [cost.as_dict() for cost in each],
        "adc": {
            "bits": converters.adc_bits, "energy_J": energy, "area_m2": area, "rate_per_s": rate, "source": source
        },
        "constants": [
            {"name": c.name, "value": c.value, "unit": c.unit, "source": c.source} for c in chosen.constants
        ],
        "notes": list(notes),
        "warnings": list(warnings),
    }  # fmt: skip
    write_json(json_path, report)
    console = terminal(stderr=json_path == "-")
    _show(each, whole, console)
    say(
        console,
        f"ADC: {converters.adc_bits} bits, {energy * 1e12:.3g} pJ a conversion, {area * 1e12:.0f} um2; {source}",
    )
    for constant in chosen.constants:
        if not constant.name.startswith("adc_"):
            say(
                console, f"  {constant.name:<18} {constant.value:>10.4g} {constant.unit:<5} {constant.source}"
            )
    for note in notes:
        say(console, f"note: {note}")
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    if json_path is not None and json_path != "-":
        say(console, f"wrote {json_path}")


def count(
    loaded: LoadedModel,
    hardware: Hardware,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
) -> tuple[list[costs.Work], tuple[str, ...]]:
    """The work of every matrix on arrays, and what was left out."""
    examples = find_examples(loaded, data, data_dir, loaded.batch or 1, input_shape, 0)
    model = loaded.module
    seen, said = seen_in(loaded, hardware, examples.x, only or None, skip)
    analog = to_analog(model, hardware, 0, 0, only or None, skip, seen)
    weights = {
        slot.name: (module._parameters[slot.weight], module)
        for slot, module in slots(analog)
        if slot.layout.order != "vector" and not slot.ideal
    }
    clean: Any = {name: pair for name, pair in weights.items() if pair[0] is not None}
    reads = reads_per_inference(model, _holders(model, clean), examples.x[: loaded.batch or 1])
    works, notes = [], list(said)
    for layer in layers_of(analog):
        for slot in layer.counted:
            read = reads.get(slot.name)
            if read is None:
                read = Reads(1, True)
                notes.append(f"{slot.name}: no product with it was seen in one inference; counted once")
            geometry = hardware.geometry(slot.rows, slot.layout.cols, slot.layout.groups)
            works.append(costs.Work.of(slot.name, geometry, hardware, read.vectors, read.signed))
    digital = [layer.name for layer in layers_of(analog) if not layer.analog]
    if digital:
        notes.append(f"not counted, for they are digital: {', '.join(digital)}")
    if not works:
        raise InputError("no layer is on an array: there is nothing to estimate")
    return works, tuple(notes)


def _holders(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """The module of the clean model that holds each parameter: hooks act there."""
    of: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                of.setdefault(id(parameter), module)
    return {name: (tensor, of.get(id(tensor), module)) for name, (tensor, module) in weights.items()}


def _technology(
    name: str | None, preset: str | None, node_nm: float | None, cycle_ns: float | None
) -> costs.Technology:
    known = costs.technology_names()
    chosen = costs.technology(name or (preset if preset in known else "isaac"))
    for flag, value, key, rule in (
        ("--node-nm", node_nm, "node", "5 .. 500 nm"),
        ("--cycle-ns", cycle_ns, "cycle", "0.1 .. 1e6 ns"),
    ):
        if value is None:
            continue
        low, high = (5, 500) if key == "node" else (0.1, 1e6)
        if not low <= value <= high:
            raise InputError(f"{flag} {value:g}: expected {rule}")
        chosen = chosen.replaced(key, value * 1e-9, f"given with {flag}")
    return chosen


def _show(each: list[costs.Cost], whole: costs.Cost, console: Console) -> None:
    say(
        console,
        f"One inference takes about {_metric(whole.joules, 'J')} and {_metric(whole.latency, 's')} on "
        f"{whole.work.arrays} arrays of {whole.square_metres * 1e6:.3g} mm2; converters take "
        f"{whole.converter_share:.0%} of the energy.",
    )
    say(console, ESTIMATE)
    table = Table(box=None, pad_edge=False)
    for column in ("layer", "arrays", "cycles", "energy", "latency", "area mm2", "ADC", "DAC"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for cost in (*each, whole):
        shares = [f"{cost.energy[part] / cost.joules:.0%}" if cost.joules else "" for part in ("adc", "dac")]
        table.add_row(
            cost.name, f"{cost.work.arrays:,}", f"{cost.work.cycles:,}", _metric(cost.joules, "J"),
            _metric(cost.latency, "s"), f"{cost.square_metres * 1e6:.3g}", *shares,
        )  # fmt: skip
    console.print(table)


def _metric(value: float, unit: str) -> str:
    """Three digits with a prefix."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
