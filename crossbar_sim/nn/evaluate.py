"""Running a model over data: in fixed blocks, one thread per block, so that the bits never depend on threads."""

import copy
import dataclasses
import functools
import inspect
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crossbar_sim.crossbar import threads
from crossbar_sim.data.inputs import Batch, Inputs, call, described, filled, tensors_of
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.nn import device as devices
from crossbar_sim.nn.analog.chips import locked
from crossbar_sim.nn.analog.copying import unwrapped
from crossbar_sim.nn.analog.state import numbered_reads
from crossbar_sim.nn.fast_operators import FastRoutes
from crossbar_sim.nn.module_state import watched

BLOCK = 500
"""Images per forward: activations of small networks stay in cache, and the GEMM is at full speed."""

_FEW, _LEAST = 8, 4

_harmless: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Models whose first forward left its input as it was: their forwards get the examples themselves, not a copy."""


def outputs(
    model: nn.Module,
    x: Batch,
    block: int = BLOCK,
    fixed: int | None = None,
    reduce: Callable[[Tensor, slice], Any] | None = None,
    fast: bool = True,
) -> list[Any]:
    """The model's outputs block by block, in order; on the CPU several blocks at a time.

    What the forward leaves on the model (`nn.module_state`) is put back; then blocks run one after the other. The
    examples are left unchanged, even if the forward changes its input in place.

    Args:
        model: in evaluation mode; an analog one is programmed first, then shared by the threads.
        x: inputs (n, ...), or several (`data.inputs`), moved block by block to the device of the model's parameters.
        block: images per forward; results may depend on it in the last float32 place, never on threads.
        fixed: the one batch size that the model accepts; the last block is filled up and cut again.
        reduce: what to keep of a block: called with its output (b, ...) and its slice of x.
        fast: take the faster routes of `nn.fast_operators`.

    Raises:
        InputError: if the model cannot take the inputs, or returns no tensor with one row per input.
    """
    device = _place_of(model)
    results: dict[int, Any] = {}

    def one(part: slice) -> None:
        if device.type == "cpu":
            one_thread()
        rows = x[part].to(device)
        piece = filled(rows, fixed or 0)
        with torch.inference_mode(), numbered_reads(part.start, len(piece)):
            y = _forward(model, piece, fast and device.type == "cpu")
        y = y[: len(rows)]
        results[part.start] = y if reduce is None else reduce(y, part)

    with torch_threads_kept(), devices.in_float32(device), locked(model), watched(model) as watch:
        rest = threads.chunks(len(x), fixed or min(block, _sizes.get(model, block)))
        while rest:
            try:
                if not watch.known:
                    part, *others = rest
                    watch.first(functools.partial(one, part))
                    rest = others
                elif device.type == "cpu" and not watch.alone:
                    threads.run(one, rest)
                    rest = []
                else:
                    if fixed is None:
                        rest = _larger(model, rest, device, one)
                    for part in rest:
                        one(part)
                    rest = []
            except (MemoryError, torch.OutOfMemoryError) as error:  # of the forward, and of what surrounds it
                rest = _halved(model, [part for part in rest if part.start not in results], fixed, error)
                devices.release_memory(device)
    ordered = [results[start] for start in sorted(results)]
    shapes = {tuple(y.shape[1:]) for y in ordered if isinstance(y, Tensor)}
    if reduce is None and len(shapes) > 1:
        raise InputError(_of_batch(shapes))
    return ordered


_sizes: "weakref.WeakKeyDictionary[nn.Module, int]" = weakref.WeakKeyDictionary()
"""Examples of a block that fit into memory, of models that ran on a GPU or had too little memory."""


def _place_of(model: nn.Module) -> torch.device:
    """The device that inputs have to be on."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _larger(
    model: nn.Module, rest: list[slice], device: torch.device, one: Callable[[slice], None]
) -> list[slice]:
    """The blocks that are left, as large as the device's memory allows; the first shows what an example takes."""
    if len(rest) < 2 or device.type == "cpu":
        return rest
    start, stop, block = rest[0].start, rest[-1].stop, rest[0].stop - rest[0].start
    if model not in _sizes:
        before = devices.peak_memory(device, reset=True)
        one(rest[0])
        start, after = rest[0].stop, devices.peak_memory(device)
        each = 0.0 if before is None or after is None else (after - before) / block
        _sizes[model] = devices.block_size(block, each, devices.free_memory(device))
    return [slice(start + p.start, start + p.stop) for p in threads.chunks(stop - start, _sizes[model])]


def _halved(model: nn.Module, rest: list[slice], fixed: int | None, error: Exception) -> list[slice]:
    """Blocks that did not fit into memory, each as two; said in a warning.

    Raises:
        MemoryError: if a block is of one example, or the model accepts no other size.
    """
    size = max(part.stop - part.start for part in rest)
    if fixed is not None or size < 2:
        raise MemoryError(str(error)) from error
    half = _sizes[model] = -(-size // 2)
    sentence = f"the memory is full with {size} examples at a time: they are run {half} at a time"
    warnings.warn(sentence, CrossbarWarning, stacklevel=2)
    return [
        slice(part.start + piece.start, part.start + piece.stop)
        for part in rest
        for piece in threads.chunks(part.stop - part.start, half)
    ]


def _of_batch(shapes: Iterable[tuple[int, ...]]) -> str:
    shown = " or ".join(map(str, sorted(shapes)))
    return (
        f"the shape of the output for an example depends on its batch ({shown}): expected are outputs for each example "
        "alone; wrap the model so that it returns those (of a model that compares all examples with one another: their "
        "embeddings)"
    )


def few_of(x: Batch, fixed: int | None = None, most: int | None = None) -> Batch:
    """The first inputs, on which models are compared: two blocks of them, if there are enough."""
    return x[: 2 * fixed if fixed is not None else most or _FEW]


def few_outputs(model: nn.Module, x: Batch, fixed: int | None = None) -> Tensor:
    """Outputs for a few inputs in two blocks, so that what the first leaves on the model acts on the second."""
    few = few_of(x, fixed)
    half = -(-len(few) // 2) if len(few) >= _LEAST else len(few)
    try:
        found = outputs(model, few, half, fixed)
    except InputError:
        if half == len(few) or fixed is not None:
            raise
        found = outputs(model, few, len(few))  # a model may fold eight frames into its batch
    return torch.cat([y.cpu() for y in found]).float()


def check_repeats(model: nn.Module, x: Batch, fixed: int | None = None) -> Tensor:
    """Refuse a model that draws random numbers: what a chip changes could not be distinguished from them.

    Returns:
        The outputs for the first inputs, of `few_outputs`.

    Raises:
        InputError: if two runs on the first inputs differ by more than a GPU's sums do.
    """
    first, again = (few_outputs(model, x, fixed) for _ in range(2))
    # example by example: the outputs of a language model are large
    near = 1e-3 * max(float(y.nan_to_num().abs().max()) for y in first)
    pairs = zip(first, again, strict=True)
    if not all(torch.allclose(y, z, rtol=1e-3, atol=near, equal_nan=True) for y, z in pairs):
        raise InputError(
            "the model draws random numbers, or keeps state outside of its modules (in a global, say): two runs on the "
            "same inputs differ, and what a chip changes could not be distinguished from that. Leave the drawing out "
            "in eval mode (dropout with training=self.training, the mean of a distribution in place of a sample), and "
            "keep state on self"
        )
    return first


def check_alone(model: nn.Module, few: Tensor, clean: Tensor) -> float:
    """Refuse a model whose outputs for an example depend on the statistics of its batch.

    Args:
        model: which has been run.
        few: of `few_outputs`.
        clean: its outputs in larger blocks, (n, ...).

    Returns:
        How much outputs depend on the other examples of a batch, relative to the largest output; 0.0 where it is no
        more than rounding.

    Raises:
        InputError: naming the batch normalisations without running statistics, or in training mode.
    """
    if few.shape[1:] != clean.shape[1:]:
        raise InputError(_of_batch({tuple(few.shape[1:]), tuple(clean.shape[1:])}))
    largest, each = 0.0, []
    for y, z in zip(few, clean, strict=False):
        known, z = y.isfinite() & z.isfinite(), z.float()  # what a model makes of padding may be anything
        y, z = (torch.where(known, t, 0.0) for t in (y, z))
        largest = max(largest, float(z.abs().max()))
        each.append(float((y - z).abs().max()))
    half = any(p.is_floating_point() and p.element_size() < 4 for p in model.parameters())
    # of half of the examples: where there are thresholds, rounding may change a few of them, and those of a first block
    # do not change where outputs depend on the examples before them (time first, say)
    difference = sorted(each)[min((len(each) + 1) // 2, len(each) - 1)]
    mixed = difference > (3e-2 if half else 1e-3) * largest
    if not mixed and len(few) >= _LEAST:
        return 0.0
    found = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or (module.running_mean is None and module.running_var is None))
    ]
    if found:
        raise InputError(
            f"{', '.join(found[:3])}: batch normalisation by the statistics of the batch, so an output depends on the "
            "other inputs of its batch: use track_running_stats=True and model.eval()"
        )
    return difference / largest if mixed else 0.0


def run_over(model: nn.Module, x: Batch, block: int, fixed: int | None = None) -> None:
    """Run the model over x so that hooks see its layers' inputs; the outputs, of any type, are discarded.

    Args:
        model: in evaluation mode.
        x: inputs (n, ...), moved batch by batch to the device of the model's parameters.
        block: inputs per forward.
        fixed: the one batch size that the model accepts; the last block is filled up from the first inputs, which
            are then seen twice.

    Raises:
        InputError: if the model cannot take the inputs.
    """
    size, device = fixed or block, _place_of(model)
    with watched(model):
        for start in range(0, len(x), size):
            piece = x[start : start + size]
            if fixed is not None and len(piece) < fixed:
                piece = x[torch.arange(start, start + fixed, device=tensors_of(x)[0].device) % len(x)]
            piece = piece.to(device)
            with torch.inference_mode(), numbered_reads(start, len(piece)):
                _answer(model, piece)


def output_of(model: nn.Module, piece: Batch) -> Tensor:
    """The output (b, ...) for one block on the model's device, with gradients where they are enabled.

    Raises:
        InputError: as `outputs`.
    """
    return _forward(model, piece, False)


def one_thread() -> None:
    """Let torch use one thread from now on: splitting over threads would change the last bits."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Restore torch's number of threads afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forward(model: nn.Module, piece: Batch, fast: bool) -> Tensor:
    """One block's output as a tensor (b, ...) of float32 or float64."""
    with FastRoutes() if fast else nullcontext():
        answer = _answer(model, piece)
    y = answer_of(answer)
    if y is None or y.dim() < 1 or len(y) != len(piece):
        what = f"shape {tuple(y.shape)}" if y is not None else f"no tensor ({type(answer).__name__})"
        first = "; it returns several outputs, of which the first is taken" if several(answer) > 1 else ""
        if (
            y is not None
            and y.dim() == 0
            and _parts(answer)[0].get("loss") is y
            and isinstance(piece, Inputs)
        ):
            raise InputError(
                f"the model returns a loss first, which it computes where labels are among its inputs "
                f"({', '.join(name for name, _ in piece.named())}): leave those labels out of the data"
            )
        raise InputError(
            f"the model returns {what} for {len(piece)} inputs: expected one row per input{first}: wrap the model so "
            "that it returns what is to be judged (a model of single examples: torch.stack([model(e) for e in x]))"
        )
    return _real(y)


def _real(y: Tensor) -> Tensor:
    """The output in a type that errors can be computed in: small types overflow or wrap around, bool has no errors.

    Raises:
        InputError: if it is complex: such numbers have no largest, and no class.
    """
    if y.is_complex():
        raise InputError(
            "the model returns complex numbers: wrap it so that it returns y.abs() or torch.view_as_real(y)"
        )
    if y.dtype in (torch.float32, torch.float64):
        return y
    return y.float() if y.element_size() <= 2 else y.double()


def _answer(model: nn.Module, piece: Batch) -> Any:
    """The model's output for one block; its errors become an InputError."""
    try:
        return _unchanged(model, piece)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of the user's own code, or of torch where shapes do not fit: of any kind
        if "allocate memory" in str(error) or "out of memory" in str(error):
            raise MemoryError(str(error)) from error  # torch has no type for it on the CPU
        if "does not require grad" in str(error):
            raise InputError(
                "the model's forward computes gradients (torch.autograd), and models run in inference mode here: "
                "give a forward without them"
            ) from error
        if isinstance(error, IndexError) and (found := _beyond_vocabulary(model, piece)):
            raise InputError(found) from error
        first = next((line for line in str(error).split("\n") if line.strip()), type(error).__name__)
        if "'indices'" in first and "embedding" in first:
            first = "it looks tokens up in an embedding, and these are not integers: give them as int64"
        elif isinstance(error, TypeError) and "required positional argument" in first:
            first += (
                " (give several inputs by their names: a dictionary, or an .npz with arrays of these names)"
            )
        elif _takes_one(model, piece):
            first = (
                "its forward takes a single example, without the axis of a batch: wrap it so that it returns "
                "torch.stack([model(example) for example in x])"
            )
        raise InputError(
            f"the model cannot take inputs of {described(piece)} (batch first): {first.strip()}"
        ) from error


def _takes_one(model: nn.Module, piece: Batch) -> bool:
    """Whether the model takes the first example without the axis of a batch."""
    if not isinstance(piece, Tensor) or piece.dim() < 2:
        return False
    with suppress(Exception):
        return answer_of(call(model, piece[0].clone())) is not None
    return False


class _Lookups(TorchDispatchMode):
    """Context that finds a look-up beyond the end of its table, and the tables in which some tokens are looked up.

    Args:
        tokens: the numbers to look out for; None: none.
    """

    def __init__(self, tokens: Tensor | None = None) -> None:
        super().__init__()
        self.found = ""
        self.tokens, self.tables = tokens, list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("embedding", "embedding_bag", "_embedding_bag", "index_select"):
            table, index = args[0], args[2 if func.overloadpacket.__name__ == "index_select" else 1]
            low, high = int(index.min()), int(index.max())
            if (
                self.tokens is not None
                and index.numel() == self.tokens.numel()
                and torch.equal(index.flatten().long(), self.tokens)
            ):
                self.tables.append(len(table))
            if not self.found and (high >= len(table) or low < 0):
                self.found = (
                    f"the inputs hold the token {high if high >= len(table) else low}, and the model's table has "
                    f"{len(table)} entries, 0 to {len(table) - 1}: is this the tokenizer of the model? (places of a "
                    "sequence may be looked up as well: it may be too long)"
                )
        return func(*args, **(kwargs or {}))


def _beyond_vocabulary(model: nn.Module, piece: Batch) -> str:
    """A sentence on tokens that the model has no entry for; empty if that is not why it fails."""
    with _Lookups() as lookups, suppress(Exception):
        call(model, piece)
    return lookups.found


def vocabulary(module: nn.Module, x: Tensor) -> int | None:
    """How many tokens a model knows: the entries of the shortest table that its inputs are looked up in.

    Args:
        module: in evaluation mode; a copy of it is run.
        x: integers (n, ...) to run it on, of any value.

    Returns:
        The number, or None where the inputs are not looked up as they are.
    """
    tried = torch.ones_like(x)
    tried[..., 1::2] = 0  # unlike places, which rise, and unlike a second input of zeros
    with _Lookups(tried.flatten().long()) as lookups:
        refusal(module, tried)
    return min(lookups.tables, default=None)


def _unchanged(model: nn.Module, piece: Batch) -> Any:
    """The model's output for a block of examples, whose values are kept even if the forward changes its input.

    A model gets copies until one of its forwards has been seen to leave its input alone. The values are compared as
    well as the version, which `x.data` and NumPy do not raise.
    """
    given = tensors_of(piece)
    if model in _harmless and not any(t.is_inference() for t in given):
        before = [t._version for t in given]
        answer = call(model, piece)
        if [t._version for t in given] != before:
            _harmless.discard(model)
            raise InputError(
                "the model changes its input in place for some inputs and not for others, so the examples are no "
                "longer what they were: begin its forward with x = x.clone()"
            )
        return answer
    with torch.inference_mode(False), torch.no_grad():  # a tensor made in inference mode has no version
        own = piece.clone()
    copies = tensors_of(own)
    before = [t._version for t in copies]
    answer = call(model, own)
    if [t._version for t in copies] == before and all(map(torch.equal, copies, given)):
        _harmless.add(model)
    return answer


def answer_of(y: Any) -> Tensor | None:
    """The main output: a tensor, else the one called "logits" or "out", else the first tensor."""
    if isinstance(y, Tensor):
        return y
    named, parts = _parts(y)
    first = [named[name] for name in ("logits", "out") if name in named]
    return next((found for part in (*first, *parts) if (found := answer_of(part)) is not None), None)


def logits(model: nn.Module, x: Batch) -> Tensor:
    """The output of a classifier that is judged: its own, or the one of several that `answer_of` finds.

    Raises:
        InputError: if it returns no tensor.
    """
    found = answer_of(call(model, x))
    if found is None:
        raise InputError(f"{type(model).__name__} returns no tensor: training needs logits")
    return found


def several(y: Any) -> int:
    """How many outputs there are, if the first is used because of its position; 1 if there is one or a name decides."""
    named, parts = _parts(y)
    if any(named.get(name) is not None for name in ("logits", "out")):
        return 1
    return max(sum(each is not None for each in parts), 1)


def _parts(y: Any) -> tuple[dict[str, Any], list[Any]]:
    """The parts of an output that have names (of a dict, a dataclass or a named tuple), and all of its parts."""
    if isinstance(y, Mapping):
        return dict(y), list(y.values())
    if isinstance(y, list | tuple | deque):
        fields = getattr(y, "_fields", ())
        return dict(zip(fields, y, strict=False)), list(y)
    if dataclasses.is_dataclass(y) and not isinstance(y, type):
        fields = {field.name: getattr(y, field.name, None) for field in dataclasses.fields(y)}
        return fields, list(fields.values())
    return {name: getattr(y, name) for name in ("logits", "out") if hasattr(y, name)}, []


# Inputs in the type that a model takes: tokens as integers, everything else in the type of its parameters.


def inputs_for(
    module: nn.Module, x: Batch, notes: tuple[str, ...] = (), y: Tensor | None = None
) -> tuple[Any, tuple[str, ...]]:
    """x in the dtype that the model takes, and a note on the conversion; of several inputs see `bound`.

    Floats become the floating type of the model's parameters, or integers where the model looks tokens up. Integers
    stay what they are for a model that takes them; for others they become floats, and bytes (uint8), which are taken
    for pixels, are divided by 255, as in files.

    Args:
        module: the clean model, in evaluation mode.
        x: (n, ...), or several inputs.
        notes: notes on x that are known already.
        y: the labels, from which some models make the inputs of their decoder.

    Raises:
        InputError: if the model takes integers and x holds other numbers, or inputs with other names.
    """
    if isinstance(x, Inputs):
        return bound(module, x, y), notes
    parameters = (p.dtype for p in module.parameters() if p.is_floating_point())
    own = next(parameters, torch.float32)
    if x.is_floating_point():
        whole = whole_numbers(module, x if x.dtype == torch.float32 else x[:1].float())
        if whole is not None:
            return tokens(x, whole), (*notes, "the model takes whole numbers: x is taken as such")
        if x.dtype == own or (x.dtype == torch.float32 and own != torch.float64):
            return x, notes  # a model with half-precision weights may convert its inputs itself
        return x.to(own), (*notes, f"x is {_short(x.dtype)}: taken as {_short(own)}")
    if whole_numbers(module, x.float()) is not None:
        return x.to(torch.int64), notes
    if not _floating_graph(module) and refusal(module, x[:1]) is None:
        return x, notes
    if x.dtype == torch.uint8:
        return x.to(own) / 255, (*notes, "x is uint8: taken for pixels and divided by 255")
    return x.to(own), (*notes, f"x is {_short(x.dtype)}: taken as it is, as {_short(own)}")


def bound(module: nn.Module, x: Inputs, y: Tensor | None = None) -> Inputs:
    """Several inputs in the types that a model takes, checked against the names of its forward.

    Integers and truth values stay what they are; floats become the floating type of the model's parameters where they
    do not fit it. An exported graph gets every input in the type that it was exported with. An encoder-decoder of
    transformers without `decoder_input_ids` gets those that it makes of the labels itself.

    Args:
        module: the clean model, in evaluation mode.
        x: the inputs.
        y: the labels (n, t) or None.

    Raises:
        InputError: listing both sides, if the forward has no such input, or needs one that is missing.
    """
    model = unwrapped(module)
    if y is not None and y.dim() == 2 and not any(name.startswith("decoder_input") for name in x.kwargs):
        made = _decoder_tokens(model, y)
        x = x if made is None else dataclasses.replace(x, kwargs={**x.kwargs, "decoder_input_ids": made})
    _check_names(model, x)
    wanted: dict[str, torch.dtype] = {}
    if isinstance(model, torch.fx.GraphModule):
        values = {n.target: n.meta.get("val") for n in model.graph.nodes if n.op == "placeholder"}
        wanted = {str(name): value.dtype for name, value in values.items() if isinstance(value, Tensor)}
        names = list(wanted)
        wanted |= {f"inputs[{i}]": wanted[name] for i, name in enumerate(names[: len(x.args)])}
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def typed(name: str, tensor: Tensor) -> Tensor:
        if name in wanted:
            if not tensor.is_floating_point() or wanted[name].is_floating_point:
                return tensor.to(wanted[name])
            return tokens(tensor, wanted[name])
        kept = not tensor.is_floating_point() or tensor.dtype == own
        return tensor if kept or (tensor.dtype == torch.float32 and own != torch.float64) else tensor.to(own)

    changed = {name: typed(name, tensor) for name, tensor in x.named()}
    args = tuple(changed.get(f"inputs[{i}]", value) for i, value in enumerate(x.args))
    return dataclasses.replace(
        x, args=args, kwargs={n: changed.get(n, value) for n, value in x.kwargs.items()}
    )


def _decoder_tokens(model: Any, y: Tensor) -> Tensor | None:
    """What an encoder-decoder of transformers makes of labels (n, t): the token before each; None of other models."""
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        found: Tensor = own(labels=y)
        return found
    settings = getattr(model, "config", None)
    start = getattr(settings, "decoder_start_token_id", None)
    if start is None or not getattr(settings, "is_encoder_decoder", False):
        return None
    before = torch.cat([torch.full_like(y[:, :1], start), y[:, :-1]], 1)
    padding = getattr(settings, "pad_token_id", None)
    return torch.where(before < 0, start if padding is None else padding, before)


def needed_inputs(module: nn.Module) -> tuple[str, ...]:
    """The names of the inputs without which the model's forward cannot be called."""
    try:
        parameters = inspect.signature(unwrapped(module).forward).parameters.values()
    except (TypeError, ValueError):  # of compiled code
        return ()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind in kinds)


def _check_names(model: nn.Module, x: Inputs) -> None:
    """Refuse inputs that the forward does not have, and a forward that needs others."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of compiled code
        return
    kinds = inspect.Parameter
    named = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    known = [*named, *(p for p in parameters if p.kind == kinds.KEYWORD_ONLY)]
    names = [p.name for p in known]
    # transformers passes any other keyword on, to where nobody reads it
    others = any(p.kind == kinds.VAR_KEYWORD for p in parameters)
    others = others and not type(model).__module__.startswith("transformers.")
    unknown = [] if others else [name for name in x.kwargs if name not in names]
    padded = [name for name in x.made if name in unknown]
    if padded:
        raise InputError(
            f"the examples have different lengths, and the model's forward({', '.join(names)}) has no {padded[0]} to "
            "tell padding apart: pad or resize them to one length"
        )
    more = len(x.args) > len(named) and not any(p.kind == kinds.VAR_POSITIONAL for p in parameters)
    given = {*names[: len(x.args)], *x.kwargs}
    missing = [p.name for p in known if p.default is p.empty and p.name not in given]
    if not (unknown or missing or more):
        return
    shown = [f"{p.name}{'' if p.default is p.empty else '=...'}" for p in known]
    listed = ", ".join(name for name, _ in x.named())
    faults = [
        *([f"it has no {', '.join(unknown)}"] if unknown else []),
        *([f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []),
        *([f"it takes {len(named)} by position and {len(x.args)} are given"] if more else []),
    ]
    raise InputError(
        f"the data hold the inputs {listed}, and the model's forward takes ({', '.join(shown)}): {'; '.join(faults)}; "
        "give the arrays the names of the forward (labels: y, labels or targets)"
    )


def whole_numbers(module: nn.Module, x: Tensor) -> torch.dtype | None:
    """The integer type of a model's inputs (tokens), or None if they are real numbers.

    An exported graph tells. Any other model that looks something up is tried on an example of x: an embedding may be
    of its inputs, or of places that it counts itself.
    """
    if isinstance(module, torch.fx.GraphModule):
        value = next((n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder"), None)
        dtype = getattr(value, "dtype", torch.float32)
        return None if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool else dtype
    if not any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules()):
        return None
    real = refusal(module, x[:1])
    if real is None:
        return None
    whole = refusal(module, x[:1].long())
    # An index out of range is a token that the model does not know, if real numbers fail otherwise.
    unknown = isinstance(whole, IndexError) and not isinstance(real, IndexError)
    return torch.int64 if whole is None or unknown else None


def refusal(module: nn.Module, x: Batch) -> BaseException | None:
    """The error that the model's code raises on x, if any; run on a copy, since a forward may change the model."""
    memo = {id(p): p for p in module.parameters()}
    tensors = (t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor))
    tried = copy.deepcopy(module, memo | {id(t): t for t in tensors})  # type: ignore[arg-type]
    device = next((p.device for p in module.parameters()), tensors_of(x)[0].device)
    try:
        run_over(tried, x.to(device), len(x))
    except InputError as error:
        return error.__cause__ or error
    return None


def tokens(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The data as integers: they are read as float32, which holds them exactly up to 2^24.

    Raises:
        InputError: if x holds other numbers.
    """
    if not torch.equal(x, x.floor()) or float(x.abs().max()) >= 2**24:
        raise InputError(
            "the model takes integers, such as tokens, and x holds other numbers: "
            "save x.astype('int64'), each below 16777216"
        )
    return x.to(dtype)


def _floating_graph(module: nn.Module) -> bool:
    return isinstance(module, torch.fx.GraphModule)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
