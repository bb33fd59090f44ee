"""Running a model over data: in fixed blocks, one thread per block, so that the bits never depend on threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError
from crossbar_sim.nn.chips import locked
from crossbar_sim.nn.kept_state import watched
from crossbar_sim.nn.reading import reading
from crossbar_sim.nn.routes import FastRoutes

BLOCK = 500
"""Images per forward: activations of small networks stay in cache, and the GEMM is at full speed."""

_FEW = 8


def outputs(
    model: nn.Module,
    x: Tensor,
    block: int = BLOCK,
    fixed: int | None = None,
    reduce: Callable[[Tensor, slice], Any] | None = None,
    fast: bool = True,
) -> list[Any]:
    """The model's outputs block by block, in order; on the CPU several blocks at a time.

    What the forward leaves on the model (`nn.kept_state`) is put back; then blocks run one after the other.

    Args:
        model: in evaluation mode; an analog one is programmed first, then shared by the threads.
        x: inputs (n, ...), moved block by block to the device of the model's parameters.
        block: images per forward; results may depend on it in the last float32 place, never on threads.
        fixed: the one batch size that the model accepts; the last block is filled up and cut again.
        reduce: what to keep of a block: called with its output (b, ...) and its slice of x.
        fast: take the faster routes of `nn.routes`.

    Raises:
        InputError: if the model cannot take the inputs, or returns no tensor with one row per input.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    parts = threads.chunks(len(x), fixed or block)
    results: list[Any] = [None] * len(parts)

    def one(i: int) -> None:
        if device.type == "cpu":
            one_thread()
        part = parts[i]
        piece = x[part].to(device)
        missing = (fixed or 0) - len(piece)
        if missing > 0:
            piece = torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])])
        with torch.inference_mode(), reading(part.start, len(piece)):
            y = _forward(model, piece, fast and device.type == "cpu")
        y = y[: len(piece) - max(missing, 0)]
        results[i] = y if reduce is None else reduce(y, part)

    with torch_threads_kept(), locked(model), watched(model) as watch:
        rest = list(range(len(parts)))
        if rest and not watch.known:
            watch.first(lambda: one(rest.pop(0)))
        if device.type == "cpu" and not watch.alone:
            threads.run(one, rest)
        else:
            for i in rest:
                one(i)
    return results


def check_repeats(model: nn.Module, x: Tensor, fixed: int | None = None) -> None:
    """Refuse a model that draws random numbers: what a chip changes could not be told from them.

    Raises:
        InputError: if two runs on the first inputs differ by more than a GPU's sums do.
    """
    first, again = (outputs(model, x[:_FEW], fixed=fixed)[0].float() for _ in range(2))
    if not torch.allclose(first, again, rtol=1e-3, atol=1e-3 * float(first.abs().max()), equal_nan=True):
        raise InputError(
            "the model draws random numbers: two runs on the same inputs differ, and what a chip changes could not be "
            "told from that. Leave the drawing out in eval mode (dropout with training=self.training, the mean of a "
            "distribution in place of a sample)"
        )


def run_over(model: nn.Module, x: Tensor, block: int, fixed: int | None = None) -> None:
    """Run the model over x for what its layers see; its outputs may be anything.

    Args:
        model: in evaluation mode.
        x: inputs (n, ...), on the model's device.
        block: inputs per forward.
        fixed: the one batch size that the model accepts; the last block is filled up from the first inputs, which
            are then seen twice.

    Raises:
        InputError: if the model cannot take the inputs.
    """
    size = fixed or block
    with watched(model):
        for start in range(0, len(x), size):
            piece = x[start : start + size]
            if fixed is not None and len(piece) < fixed:
                piece = x[torch.arange(start, start + fixed, device=x.device) % len(x)]
            with torch.inference_mode(), reading(start, len(piece)):
                _answer(model, piece)


def one_thread() -> None:
    """Let torch compute on this thread alone from now on: its own split over threads would change the bits."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Afterwards torch has as many threads here as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forward(model: nn.Module, piece: Tensor, fast: bool) -> Tensor:
    """One block's output as a tensor (b, ...) of float32 or float64."""
    with FastRoutes() if fast else nullcontext():
        answer = _answer(model, piece)
    y = answer_of(answer)
    if y is None or y.dim() < 1 or len(y) != len(piece):
        what = f"shape {tuple(y.shape)}" if y is not None else "no tensor"
        first = "; it returns several outputs, of which the first is taken" if several(answer) > 1 else ""
        raise InputError(
            f"the model returns {what} for {len(piece)} inputs: expected one row per input{first}: wrap the model so "
            "that it returns what is to be judged"
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


def _answer(model: nn.Module, piece: Tensor) -> Any:
    """What the model makes of one block; its errors in one sentence."""
    try:
        return model(piece)
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
        first = next((line for line in str(error).split("\n") if line.strip()), type(error).__name__)
        raise InputError(
            f"the model cannot take inputs of shape {tuple(piece.shape)} (batch first): {first.strip()}"
        ) from error


def answer_of(y: Any) -> Tensor | None:
    """The output that counts: a tensor, "logits", the first of a tuple, "out" or the first of a dictionary."""
    if isinstance(y, Tensor):
        return y
    if hasattr(y, "logits"):
        return answer_of(y.logits)
    if isinstance(y, list | tuple) and y:
        return answer_of(y[0])
    if isinstance(y, dict) and y:
        return answer_of(y.get("logits", y.get("out", next(iter(y.values())))))
    return None


def several(y: Any) -> int:
    """How many outputs there are, of which the first counts for being the first; 1 if there is one, or a name tells."""
    if hasattr(y, "logits") or (isinstance(y, dict) and ("logits" in y or "out" in y)):
        return 1
    among = y.values() if isinstance(y, dict) else y if isinstance(y, list | tuple) else ()
    return max(sum(each is not None for each in among), 1)
