"""The converters' ranges of each layer, as a calibration has chosen them (docs/periphery.md, "Calibration")."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from crossbar_sim.crossbar.checks import SINGLE, finite, require, show, unknown

_KEYS = ("input", "output")


@dataclass(frozen=True)
class LayerRange:
    """Of one array.

    Args:
        input: full scale of its DACs, in units of the input; None: not calibrated.
        output: full scale of its ADCs in A at 1 V, one for each weight slice, least significant first; empty: not
            calibrated.
    """

    input: float | None = None
    output: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        values = (*(() if self.input is None else (self.input,)), *self.output)
        for value in values:
            allowed = finite(value) and 1 / SINGLE <= value <= SINGLE
            require(allowed, f"a range of {show(value)}: expected a number in 1e-30 .. 1e30")
        if self.input is not None:
            object.__setattr__(self, "input", float(self.input))
        object.__setattr__(self, "output", tuple(float(v) for v in self.output))


@dataclass(frozen=True)
class Ranges:
    """Of every array by its name, which is that of its weight (`fc1.weight`)."""

    layers: tuple[tuple[str, LayerRange], ...] = ()

    kind: ClassVar[str] = "ranges"

    def __post_init__(self) -> None:
        names = [name for name, _ in self.layers]
        require(len(set(names)) == len(names), "ranges name an array twice")

    @classmethod
    def of(cls, layers: Iterable[tuple[str, LayerRange]] | Mapping[str, LayerRange]) -> "Ranges":
        """Sorted by name, so that equal ranges are equal."""
        items = layers.items() if isinstance(layers, Mapping) else layers
        return cls(tuple(sorted(items, key=lambda item: item[0])))

    def get(self, name: str) -> LayerRange | None:
        """The ranges of an array, None where it was not calibrated."""
        return dict(self.layers).get(name)

    def table(self) -> dict[str, Any]:
        """As files have it: {name: {input, output}}; what is not calibrated is left out."""
        return {
            name: ({} if layer.input is None else {"input": layer.input})
            | ({"output": list(layer.output)} if layer.output else {})
            for name, layer in self.layers
        }

    @classmethod
    def from_table(cls, table: object) -> "Ranges":
        """The inverse of `table`.

        Raises:
            InputError: naming the key, what was given and what is allowed.
        """
        require(isinstance(table, dict), f"ranges={show(table)}: expected a table of arrays' names")
        assert isinstance(table, dict)
        layers = {}
        for name, entry in table.items():
            where = f"ranges.{name}"
            require(isinstance(entry, dict), f"{where}={show(entry)}: expected a table with input and output")
            for key in entry:
                require(key in _KEYS, unknown("the key", f"{where}.{key}", [f"{where}.{k}" for k in _KEYS]))
            output = entry.get("output", [])
            require(
                isinstance(output, list), f"{where}.output={show(output)}: expected a list of numbers in A"
            )
            layers[str(name)] = LayerRange(entry.get("input"), tuple(output))
        return cls.of(layers)
