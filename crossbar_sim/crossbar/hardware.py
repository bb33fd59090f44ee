"""`Hardware`: a design, and the simulation of its stages from weights to effective conductances."""

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.array import Array, Geometry, Stages, all_stages, through_wires
from crossbar_sim.crossbar.configuration import (
    CHOICES,
    FAMILIES,
    Family,
    build,
    build_part,
    parse_hardware_json,
    parse_toml,
    read_table,
)
from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise, Ranges, TelegraphNoise
from crossbar_sim.crossbar.devices import PolynomialNoise, ProgrammingModel, StuckCells, is_frozen_dataclass
from crossbar_sim.crossbar.drift import DriftModel, LogNormalDrift, MeasuredRelaxation, RetentionDrift
from crossbar_sim.crossbar.mapping import Differential, Mapping
from crossbar_sim.crossbar.presets import ValidityWarning, preset
from crossbar_sim.crossbar.readout import Periphery
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.crossbar.wires import Wires
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.validate import SINGLE, UnitWarning, check_weights, is_whole, require, show


def check_hardware(hardware: Any) -> None:
    """Check the fields of a Hardware under construction; keep `tile` as a tuple of int.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """
    for name, family in FAMILIES.items():
        value = getattr(hardware, name)
        allowed = isinstance(value, family.bases) or (family.optional and value is None)
        require(allowed, f"{name}={show(value)}: expected {family.example}{_or_none(family)}")
        require(
            value is None or is_frozen_dataclass(type(value)),
            f"{name}={show(value)}: {type(value).__name__} must be a frozen dataclass, so that its fields name it in "
            "results",
        )
    for name, words in CHOICES.items():
        value = getattr(hardware, name)
        allowed = isinstance(value, str) and value in words
        require(allowed, f"{name}={show(value)} must be one of {', '.join(words)}")
    tile = hardware.tile
    require(
        isinstance(tile, tuple | list)
        and len(tile) == 2
        and all(is_whole(n) and 1 <= n < 2**31 for n in tile),
        f"tile={show(tile)}: rows and cols of a tile are two integers in 1 .. 2147483647",
    )
    object.__setattr__(hardware, "tile", tuple(int(n) for n in tile))
    _check_periphery(hardware)
    noise, g_max = hardware.programming, hardware.mapping.g_max
    if isinstance(noise, PolynomialNoise):
        require(
            noise.bound(g_max) <= SINGLE,
            f"programming.reference={noise.reference} S: at g_max={g_max} S sigma exceeds 1e30 S, "
            "is the reference given in S?",
        )
    if isinstance(hardware.drift, MeasuredRelaxation):
        require(
            hardware.drift.bound(g_max) <= SINGLE,
            f"drift.reference={hardware.drift.reference} S: at g_max={g_max} S the shift exceeds 1e30 S, "
            "is the reference given in S?",
        )


def _check_periphery(hardware: Any) -> None:
    """Refuse converter settings that have no effect in this design, or cannot be computed."""
    dac, adc, mapping = hardware.dac, hardware.adc, hardware.mapping
    if adc is None:
        return
    require(
        adc.bits != 1 or not adc.signed(dac),
        "adc.bits=1 leaves no bit for the sign of these currents: give 2 or more, or read columns of inputs of one "
        "sign (adc.per='column', dac.signed='two-phase')",
    )
    if adc.range == "max":
        require(
            dac is not None,
            "adc.range='max' is the largest current that inputs of full scale can give, and without a dac there is "
            "no full scale: add one, such as dac = DAC(bits=None) for an ideal one",
        )
    if adc.range == "granular":
        require(
            adc.bits is not None and mapping.levels is not None and dac is not None and dac.bits is not None,
            "adc.range='granular' makes a step of the current of one level at one input code: it needs adc.bits, "
            "dac.bits and mapping.levels",
        )


def _or_none(family: Family) -> str:
    return ", or None for an ideal one" if family.optional else ""


READOUT_EFFECTS = ("dac", "read_noise", "adc")
"""The fields of Hardware that act on each product, in their order."""


@dataclass(frozen=True)
class Hardware:
    """A design: how weights become conductances, and what changes them. A part that is None is ideal.

    Args:
        mapping: weights to conductances and back.
        drift: how conductances change with time.
        programming: the error of writing conductances.
        stuck: stuck-at faults.
        tile: (rows, cols) of a tile.
        drift_per: whether each "cell" drifts by itself, or the cells of a "weight" move together
            (the BayesFT paper's model; parallel copies always drift by themselves).
        bias: of a mapped layer: "digital" (added after the array, exact), "row" (one more word
            line, driven with 1), or "drifting" (cells of its own, drifting per parameter).
        normalisation: affine parameters: "digital", "folded" into the layer before, or "drifting".
        other: all other learnable parameters: "digital" or "drifting".
        wires: the resistance of word and bit lines, which turns conductances into effective ones.
        dac, adc: the converters of word lines and bit lines, tile by tile (docs/periphery.md).
        read_noise: noise of the currents, independent at every read.
        ranges: converter ranges of each layer, if they have been calibrated.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    mapping: Mapping = Differential()  # noqa: RUF009 - frozen
    drift: DriftModel | None = None
    programming: ProgrammingModel | None = None
    stuck: StuckCells | None = None
    tile: tuple[int, int] = (128, 128)
    drift_per: Literal["cell", "weight"] = "cell"
    bias: Literal["digital", "row", "drifting"] = "digital"
    normalisation: Literal["digital", "folded", "drifting"] = "digital"
    other: Literal["digital", "drifting"] = "digital"
    wires: Wires | None = None
    dac: DAC | None = None
    adc: ADC | None = None
    read_noise: GaussianReadNoise | TelegraphNoise | None = None
    ranges: Ranges | None = None

    def __post_init__(self) -> None:
        check_hardware(self)
        for caution in self.mapping.cautions:
            warnings.warn(caution, UnitWarning, stacklevel=3)

    @property
    def effects(self) -> tuple[str, ...]:
        """The effects on conductances in this design, in the order in which they act; see also `readout_effects`."""
        parts = {
            "clip": self.mapping.clip,
            "levels": self.mapping.levels,
            "programming": self.programming,
            "stuck": self.stuck,
            "drift": self.drift,
            "wires": self.wires,
        }
        return tuple(name for name, value in parts.items() if value is not None)

    @property
    def readout_effects(self) -> tuple[str, ...]:
        """The effects on each product in this design, in the order in which they act; () for a linear read-out."""
        return tuple(name for name in READOUT_EFFECTS if getattr(self, name) is not None)

    def up_to(self, effect: str | None) -> "Hardware":
        """This design, read out linearly, with the effects after `effect` ideal; None: with none at all."""
        names = ("clip", "levels", "programming", "stuck", "drift", "wires")
        off = names[names.index(effect) + 1 :] if effect else names
        own: dict[str, Any] = {
            name: None for name in (*off, *READOUT_EFFECTS) if name not in ("clip", "levels")
        }
        of_mapping: dict[str, Any] = {name: None for name in off if name in ("clip", "levels")}
        if "levels" in of_mapping:
            of_mapping |= {name: None for name in ("cell_bits", "encoding") if hasattr(self.mapping, name)}
        return replace(self, mapping=replace(self.mapping, **of_mapping), **own)

    def geometry(self, rows: int, cols: int, groups: int = 1) -> Geometry:
        """Cells and tiles of a (rows, cols) matrix, `groups` of them side by side."""
        return Geometry(rows, cols, groups, self.mapping.planes, self._reference, self.tile)

    @property
    def _reference(self) -> bool:
        return self.mapping.planes_per_copy == 1

    def program(self, w: Float32, key: Key, chip: int = 0) -> Array:
        """The array that weight matrix `w` becomes on `chip`, with every plane and stage.

        Args:
            w: weights, shape (rows, cols).
            key: the array's name.
            chip: which sample of the design.

        Raises:
            InputError: if w is not a matrix or holds NaN or infinite values.
        """
        w = np.asarray(w, np.float32)
        require(w.ndim == 2, f"w has shape {w.shape}: expected a matrix (rows, cols)")
        check_weights(w)
        columns = np.ascontiguousarray(w.T)
        scale = self.mapping.scale(columns)
        whole = all_stages(self, columns, scale, key, chip)
        planes: list[Any] = [np.ascontiguousarray(array.transpose(0, 2, 1)) for array in whole]
        effective = None
        if self.wires is not None:
            wired = through_wires(self, whole.drifted, 1)
            effective = np.ascontiguousarray(wired.transpose(0, 2, 1))
        periphery = Periphery.of(self, key, chip) if self.readout_effects else None
        return Array(
            planes[0], planes[1], planes[2], planes[3], self.mapping, scale, self.tile, effective, periphery
        )

    def effective_weight(
        self,
        columns: Float32,
        key: Key,
        chip: int,
        out: Float32 | None = None,
        scale: Float32 | None = None,
        groups: int = 1,
    ) -> Float32:
        """`program(...).weight` without keeping the planes: faster, the same bits.

        Args:
            columns: the transposed matrix (cols, rows), C-contiguous: torch's (out, in) weight.
            key, chip: as for `program`.
            out: where to write, shape (cols, rows), C-contiguous, not overlapping `columns`.
            scale: `mapping.scale(columns)`, if already known.
            groups: blocks of columns on tiles of their own (see `Geometry`); wires act tile by tile.

        Returns:
            (cols, rows), float32.

        Raises:
            InputError: if an array is not float32, C-contiguous and of that shape, or a weight is
                NaN or infinite (seen while the scale is computed, so not where it is given).
        """
        out = np.empty_like(columns) if out is None else out
        for what, matrix in (("columns", columns), ("out", out)):
            plain = matrix.dtype == np.float32 and matrix.flags.c_contiguous
            if not (plain and matrix.ndim == 2 and matrix.shape == columns.shape):
                raise InputError(
                    f"{what}: {matrix.dtype} of shape {matrix.shape} must be a C-contiguous float32 "
                    "matrix (cols, rows)"
                )
        scale = self.mapping.scale(columns) if scale is None else scale
        piecewise, result = self.pieces(columns, scale, key, chip, groups), out.reshape(-1)
        threads.run(lambda part: piecewise(part, result[part]), threads.chunks(result.size))
        return out

    def pieces(
        self, columns: Float32, scale: Float32, key: Key, chip: int, groups: int = 1
    ) -> Callable[[slice, Float32], None]:
        """A function that writes any range of the effective weights.

        Args:
            columns, scale, key, chip, groups: as for `effective_weight`.

        Returns:
            f(part, out): the flat weights `part`, whose start is a multiple of 256, into out (n,).
        """
        w, rows, inverse = columns.reshape(-1), columns.shape[1], self.mapping.inverse(scale)
        if self._one_pass(scale):
            assert isinstance(self.drift, LogNormalDrift | RetentionDrift)  # for mypy; see `_one_pass`
            rates, name = self.drift.rates, Stream.of(key.fold("drift"), chip).name

            def fused(part: slice, out: Float32) -> None:
                kernels.lognormal_weights(w[part], out, scale[0], inverse[0], *rates, part.start, *name)

            return fused
        if self.wires is not None:  # they act on whole tiles
            drifted = all_stages(self, columns, scale, key, chip).drifted
            wired = through_wires(self, drifted, groups).reshape(self.mapping.planes, -1)

        def cells(plane: int, part: slice) -> Float32:
            if self.wires is not None:
                return wired[plane, part]
            return self.stages(columns, scale, key, chip, plane, part).drifted

        aligned, step = w.size // 256 * 256, self.mapping.planes_per_copy
        references = [np.empty(0, np.float32)]
        if self._reference:
            whole = slice(aligned, w.size + rows)
            references = [cells(p, whole)[w.size - aligned :] for p in range(self.mapping.planes)]

        def by_planes(part: slice, out: Float32) -> None:
            sliced = self.mapping.weighted
            for first in range(0, self.mapping.planes, step):
                to, fresh = np.empty_like(out) if sliced else out, sliced or first == 0
                if self._reference:
                    kernels.add_against_reference(
                        cells(first, part), references[first], part.start, fresh, to
                    )
                else:
                    kernels.add_difference(cells(first, part), cells(first + 1, part), fresh, to)
                if sliced:
                    kernels.add_slice(to, np.float32(self.mapping.weight_of(first)), first == 0, out)
            kernels.unscale(out, inverse, rows, part.start)

        return by_planes

    def _one_pass(self, scale: Float32) -> bool:
        """Whether the kernel `lognormal_weights` applies: one scale, g_min = 0, log-normal drift only."""
        return (
            isinstance(self.mapping, Differential)
            and type(self.drift) in (LogNormalDrift, RetentionDrift)  # a subclass has its own `cells`
            and self.drift_per == "weight"
            and (self.programming, self.stuck, self.wires) == (None,) * 3
            and (self.mapping.levels, self.mapping.clip) == (None,) * 2
            and (self.mapping.g_min, self.mapping.copies, scale.size) == (0.0, 1, 1)
        )

    def stages(
        self, columns: Float32, scale: Float32, key: Key, chip: int, plane: int, part: slice
    ) -> Stages:
        """The cells `part` of one plane after each stage, in the one order of docs/model.md.

        Args:
            columns: the transposed matrix (cols, rows), C-contiguous.
            scale: `mapping.scale(columns)`.
            plane: which plane.
            part: a run of flat cells (bit line by bit line, the reference column last); its start
                is a multiple of 256.
        """
        w, n, start = columns.reshape(-1), part.stop - part.start, part.start
        target = np.empty(n, np.float32)
        weights = w[start : part.stop]
        self.mapping.target(weights, scale, columns.shape[1], start, plane, target[: weights.size])
        if weights.size < n:  # the reference column stands for weight 0
            middle = target[weights.size :]
            self.mapping.target(np.zeros_like(middle), np.ones(1, np.float32), 1, 0, plane, middle)

        programmed, faults = target, np.zeros(n, np.uint8)
        if self.programming is not None:
            z = Stream.of(key.fold("programming"), chip, plane).normals(n, start)
            programmed = np.empty(n, np.float32)
            self.programming.cells(target, z, self.mapping.g_max, programmed)
        if self.stuck is not None:
            healthy, programmed = programmed, np.empty(n, np.float32)
            window = self.mapping.g_min, self.mapping.g_max
            stream = Stream.of(key.fold("stuck"), chip, plane)
            self.stuck.cells(healthy, stream, start, window, programmed, faults)
        drifted = programmed
        if self.drift is not None:
            drifted = np.empty(n, np.float32)
            together = plane - plane % self.mapping.planes_per_weight if self.drift_per == "weight" else plane
            self.drift.cells(programmed, drifted, Stream.of(key.fold("drift"), chip, together), start)
        return Stages(target, programmed, drifted, faults)

    @classmethod
    def from_dict(cls, data: object, source: str = "hardware", trust_code: bool = False) -> "Hardware":
        """The design that a dictionary describes.

        Args:
            data: as `configuration.to_dict` makes it; keys may be left out.
            source: where it comes from (a file's name): the beginning of every error.
            trust_code: whether `drift.kind` and `programming.kind` may be `package.module:Class` of a module that is
                not imported yet; importing it runs its code.

        Raises:
            InputError: naming the source, the full key, what was given, and what is allowed.
        """
        if not isinstance(data, dict):
            raise InputError(
                f"{source}: {show(data)} is not a table of hardware keys such as drift = {{...}}"
            )
        if "layers" in data:
            raise InputError(
                f"{source}: it has a design per layer (the table layers), and one design for all is expected here"
            )
        try:
            parts = {key: build_part(key, v, trust_code) if key in FAMILIES else v for key, v in data.items()}
            hardware: Hardware = build(cls, parts, "")
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        return hardware

    @classmethod
    def from_json(cls, text: str, source: str = "hardware") -> "Hardware":
        """The design that a JSON text describes; see `from_dict`."""
        return cls.from_dict(parse_hardware_json(text, source), source)

    @classmethod
    def from_toml(cls, text: str, source: str = "hardware") -> "Hardware":
        """The design that a TOML text describes; see `from_dict`."""
        return cls.from_dict(parse_toml(text, source), source)

    @classmethod
    def load(cls, path: str | os.PathLike[str], trust_code: bool = False) -> "Hardware":
        """The design in a .toml or .json file; `trust_code` as for `from_dict`.

        Raises:
            InputError: if the file cannot be read or its contents cannot be used; see `from_dict`.
        """
        return cls.from_dict(*read_table(path), trust_code)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "Hardware":
        """A published or standard design, with fields overridden; see `crossbar-sim presets`.

        Issues a ValidityWarning for every value outside the range that the preset holds for.

        >>> Hardware.preset("bayesft", sigma=0.6).drift
        LogNormalDrift(sigma=0.6)

        Raises:
            InputError: for an unknown name or override, naming the known ones.
        """
        hardware, cautions = preset_design(name, overrides)
        for caution in cautions:
            warnings.warn(caution, ValidityWarning, stacklevel=2)
        return hardware


def preset_design(name: str, overrides: dict[str, Any]) -> tuple[Hardware, tuple[str, ...]]:
    """The design of `Hardware.preset`, with its warnings as sentences.

    Raises:
        InputError: for an unknown name or override, naming the known ones.
    """
    chosen = preset(name)
    hardware = chosen.override(Hardware.from_dict(chosen.table, f"preset {name}"), overrides)
    return hardware, chosen.warnings(hardware)


def as_hardware(hardware: object) -> Hardware:
    """A design in any form that Python functions accept: `Hardware`, a preset's name, a .toml or .json path, a table.

    Args:
        hardware: None is the preset "bayesft".

    Raises:
        InputError: if it is none of them.
    """
    if isinstance(hardware, Hardware):
        return hardware
    if hardware is None:
        return Hardware.preset("bayesft")
    if isinstance(hardware, str | os.PathLike):
        text = os.fspath(hardware)
        if str(text).lower().endswith((".toml", ".json")):
            return Hardware.load(text)
        return Hardware.preset(text)  # type: ignore[arg-type]
    if isinstance(hardware, dict):
        return Hardware.from_dict(hardware)
    shown = f"the class {hardware.__name__}" if isinstance(hardware, type) else show(hardware)
    raise InputError(
        f"hardware={shown}: expected a design such as Hardware.preset('bayesft', sigma=0.6) or Hardware(drift="
        "LogNormalDrift(0.6)), the name of a preset, or the path of a hardware file"
    )


# The change of a matrix by each effect, computed in chunks, so that the matrix is not copied.


def changes(hardware: Hardware, columns: Float32, key: Key, chip: int, groups: int = 1) -> dict[str, float]:
    """Squared Frobenius norm of the change of the effective weight that each requested effect causes.

    Effects are switched on one by one in their physical order on the same cells, so that each number is what that
    effect adds to the effects before it.

    Args:
        hardware: the design; its `effects` are the keys of the result.
        columns: the transposed matrix (cols, rows), C-contiguous.
        key, chip: as for `Hardware.program`.
        groups: as for `Hardware.effective_weight`.
    """
    names = hardware.effects
    designs = [hardware.up_to(None), *(hardware.up_to(name) for name in names)]
    pieces = [d.pieces(columns, d.mapping.scale(columns), key, chip, groups) for d in designs]
    parts = threads.chunks(columns.size)
    squares = np.zeros((len(parts), len(names)))

    def chunk(i: int) -> None:
        n = parts[i].stop - parts[i].start
        before, after = np.empty(n, np.float32), np.empty(n, np.float32)
        pieces[0](parts[i], before)
        for j, piece in enumerate(pieces[1:]):
            piece(parts[i], after)
            squares[i, j] = square(after - before)
            before, after = after, before

    threads.run(chunk, range(len(parts)))
    return {name: math.fsum(squares[:, j]) for j, name in enumerate(names)}


def square(a: Float32) -> float:
    """Sum of squares in float64, chunk by chunk."""
    flat = a.reshape(-1)
    return math.fsum(
        float(np.sum(np.square(flat[part], dtype=np.float64))) for part in threads.chunks(a.size)
    )


# The derivative of a programmed weight with respect to the clean one, cell noise held fixed.
#
# The reparametrised gradient (docs/model.md, "Gradients"): drift scales the derivative by its own factor, a
# stuck cell and a saturated weight have none, levels, slices, wires and additive terms pass it straight through.


def slope(hardware: Hardware, columns: Float32, key: Key, chip: int) -> Float32:
    """d effective / d w of every weight, for `columns` (cols, rows); same shape, float32."""
    mapping, w = hardware.mapping, columns.reshape(-1)
    out = np.empty(w.size, np.float32)
    shares = np.array(mapping.slice_weights) / sum(
        mapping.slice_weights
    )  # weight of a slice by its largest value
    scale = mapping.scale(columns)
    limit = np.broadcast_to(mapping.span * (mapping.g_max - mapping.g_min) / scale, (len(columns),))

    def factor(plane: int, part: slice) -> Float32:
        n = part.stop - part.start
        ones = np.ones(n, np.float32)
        if hardware.drift is not None and hardware.drift.multiplicative:
            together = plane - plane % mapping.planes_per_weight if hardware.drift_per == "weight" else plane
            drifted = np.empty(n, np.float32)
            stream = Stream.of(key.fold("drift"), chip, together)
            hardware.drift.cells(ones, drifted, stream, part.start)
            ones = drifted
        if hardware.stuck is not None:
            faults = hardware.stages(columns, scale, key, chip, plane, part).faults
            ones = ones * (faults == 0)
        return ones

    def chunk(part: slice) -> None:
        total = np.zeros(part.stop - part.start, np.float32)
        for first in range(0, mapping.planes, mapping.planes_per_copy):
            if mapping.planes_per_copy == 1:
                found = factor(first, part)
            else:  # the cell that carries the weight is the one of its sign
                found = np.where(w[part] >= 0, factor(first, part), factor(first + 1, part))
            total += found if mapping.slices == 1 else np.float32(shares[mapping.slice_of(first)]) * found
        out[part] = total / np.float32(mapping.copies)

    threads.run(chunk, threads.chunks(w.size))
    inside = np.abs(columns) <= limit[:, None] * np.float32(1 + 1e-6)
    return out.reshape(columns.shape) * inside
