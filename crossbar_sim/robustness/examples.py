"""The examples that a model is evaluated on: test images of a data set, the user's own, or random inputs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossbar_sim.crossbar.layer_designs import Design
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data import Splits, load_data
from crossbar_sim.data.inputs import Batch, Inputs
from crossbar_sim.errors import InputError, silenced_warnings
from crossbar_sim.nn.analog.chips import layers
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.operands import Operands
from crossbar_sim.nn.evaluate import bound, needed_inputs, refusal, tokens, vocabulary, whole_numbers
from crossbar_sim.nn.files.hugging_face import sequence_shape
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness import score

UNSEEN = (
    "the model's inputs are not known from its file, so it was not run: layers that its forward never runs may be "
    "counted"
)
"""What is said where nothing could be tried."""

RANDOM = 1000
"""Random inputs where there are no data."""

TOKENS = "random tokens"
"""The name of random inputs of a model that takes tokens."""

SEQUENCES = 100
"""So many of them."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs (n, ...), labels (n,) or None, and what the report says of them."""

    x: Batch
    y: Tensor | None
    identity: dict[str, Any]
    notes: tuple[str, ...] = ()


def find_examples(
    loaded: LoadedModel,
    data: str | Splits | None,
    data_dir: str | None,
    images: int | None,
    input_shape: tuple[int, ...] | None,
    seed: int,
) -> Examples:
    """The examples for `deploy`.

    Args:
        loaded: the model; its file may name a data set, or the shape of one input.
        data: a data set's name, the path of an .npz, or data as read; None: the model's own, else random inputs.
        data_dir: where data sets with files are.
        images: draw this many of them; None: all.
        input_shape: of one random input, where the model's file does not say.
        seed: of the draw and of random inputs.

    Raises:
        InputError: if data cannot be read, or no shape is known.
    """
    if images is not None and images < 1:
        raise InputError(f"images={images}: at least one example is needed")
    if data is not None and input_shape is not None:
        raise InputError("--data and --input-shape (of random inputs) both name inputs: give one of them")
    name = data or loaded.data
    if name is None or input_shape is not None:
        return _random(loaded, images, input_shape, seed)
    splits = (
        name if isinstance(name, Splits) else load_data(name, data_dir, inputs=needed_inputs(loaded.module))
    )
    test, notes = splits.test, splits.notes
    x, y = test.x, test.y
    whole = None if isinstance(x, Inputs) else whole_numbers(loaded.module, x)
    if isinstance(x, Inputs):
        x = bound(loaded.module, x, y)
    elif whole is not None:
        x, notes = tokens(x, whole), ("the model takes whole numbers: x is taken as such",)
    if images is not None and images < len(x):
        chosen = permutation(len(x), Key(seed).fold("images"))[:images].sort().values
        notes = (*notes, f"{images:,} of the {len(x):,} examples of {splits.name}, drawn by seed {seed}")
        x, y = x[chosen], None if y is None else y[chosen]
    elif images is not None and images > len(x):
        notes = (*notes, f"{images} examples were asked for and {splits.name} has {len(x)}: all are used")
    identity = {
        "name": splits.name,
        "fingerprint": splits.fingerprint,
        "images": len(x),
        "labelled": y is not None,
    }
    return Examples(x, y, identity, notes)


def seen_in(
    loaded: LoadedModel,
    hardware: Design,
    x: Batch | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> tuple[Operands | None, tuple[str, ...]]:
    """How the forward of a loaded model uses its parameters, for `to_analog`, and notes for the report.

    Args:
        loaded: the model.
        hardware, only, skip: see `to_analog`.
        x: inputs (n, ...), of which the first few are run; None: random ones, where the shape of an input is known.

    Returns:
        What was seen, or None where that is not known, and sentences: of weights that no product takes, or that
        nothing is known.

    Raises:
        InputError: if on ideal hardware the model is not what it was, or it has nothing to map.
    """
    if x is None:
        try:
            x = _random(loaded, loaded.batch or 2, None, 0).x
        except InputError:  # tokens, or an unknown shape
            # a graph holds no operator that it never runs
            return None, () if isinstance(loaded.module, torch.fx.GraphModule) else (UNSEEN,)
    loaded.module.eval()
    with silenced_warnings():
        analog, seen = map_model(loaded.module, hardware, x, 0, 0, only, skip, fixed=loaded.batch)
    return seen, tuple(score.of_operands(layers(analog), seen))


def _random(loaded: LoadedModel, n: int | None, shape: tuple[int, ...] | None, seed: int) -> Examples:
    """Standard normal inputs, or uniform tokens, from the stream: the same on every machine."""
    module = loaded.module
    several = needed_inputs(module)
    if len(several) > 1:
        raise InputError(
            f"the model takes {', '.join(several)}, and no random inputs are drawn for several: give --data mine.npz "
            "with arrays of these names"
        )
    shape = shape or loaded.input_shape or _guess(module)
    if shape is None:
        raise InputError(
            "the model's file does not give the shape of an input: give --data mine.npz (of integers, if the model "
            "takes integers, such as tokens), or --input-shape 3,32,32"
        )
    whole = torch.int64 if sequence_shape(module) is not None else None
    drawn = n or RANDOM
    if whole is None:
        values = Stream.of(Key(seed).fold("random inputs"), 0).normals(drawn * math.prod(shape))
        x = torch.from_numpy(values).reshape(drawn, *shape)
        whole = whole_numbers(module, x)
    if whole is not None:
        return _random_tokens(module, n or SEQUENCES, loaded.batch or 2, shape, whole, seed)
    note = f"no data given: {drawn} standard normal inputs of shape {'x'.join(map(str, shape))}"
    return Examples(x, None, _drawn("random inputs", drawn), (note,))


def _random_tokens(
    module: nn.Module, n: int, batch: int, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> Examples:
    """Tokens that are drawn from all that the model knows, each with the same probability; tried in one batch."""
    known = vocabulary(module, torch.zeros(batch, *shape, dtype=dtype))
    if known is None:
        raise InputError(
            "the model takes integers, and how many of them it knows cannot be seen, so none are drawn at random: "
            "give --data mine.npz with x of integers"
        )
    size = max(n, batch)
    words = Stream.of(Key(seed).fold(TOKENS), 0).words(size * math.prod(shape))
    drawn = ((words.astype(np.uint64) * known) >> 32).astype(np.int64).reshape(size, *shape)
    x = torch.from_numpy(drawn).to(dtype)
    failed = refusal(module, x[:batch])
    if failed is not None:
        why = (str(failed).splitlines() or [""])[0] or type(failed).__name__
        raise InputError(
            f"no data given, and the model does not run on random tokens ({why.rstrip('.')[:200]}): give --data "
            "mine.npz with arrays named as the inputs of its forward"
        )
    note = (
        f"no data given: {n} sequences of {'x'.join(map(str, shape))} random tokens, out of the {known:,} that the "
        "model knows; on text the effect of a chip may be another (give --data)"
    )
    return Examples(x[:n], None, _drawn(TOKENS, n), (note,))


def _drawn(name: str, n: int) -> dict[str, Any]:
    return {"name": name, "fingerprint": None, "images": n, "labelled": False}


def _guess(module: nn.Module) -> tuple[int, ...] | None:
    """The input shape of a language model of transformers, or of a model that begins with a linear layer."""
    first = next((m for m in module.modules() if any(True for _ in m.parameters(recurse=False))), None)
    return (first.in_features,) if isinstance(first, nn.Linear) else sequence_shape(module)
