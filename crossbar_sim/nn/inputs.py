"""Inputs in the type that a model takes: tokens as integers, everything else in the type of its parameters."""

import copy

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import run_over


def inputs_for(module: nn.Module, x: Tensor, said: tuple[str, ...] = ()) -> tuple[Tensor, tuple[str, ...]]:
    """x in the type that a model takes, and what was done to it.

    Floats become the floating type of the model's parameters, or integers where the model looks tokens up. Integers
    stay what they are for a model that takes them; for others they become floats, and bytes (uint8), which are taken
    for pixels, are divided by 255, as in files.

    Args:
        module: the clean model, in evaluation mode.
        x: (n, ...).
        said: notes on x that are known already.

    Raises:
        InputError: if the model takes integers and x holds other numbers.
    """
    parameters = (p.dtype for p in module.parameters() if p.is_floating_point())
    own = next(parameters, torch.float32)
    if x.is_floating_point():
        whole = whole_numbers(module, x if x.dtype == torch.float32 else x[:1].float())
        if whole is not None:
            return tokens(x, whole), (*said, "the model takes whole numbers: x is taken as such")
        if x.dtype == own or (x.dtype == torch.float32 and own != torch.float64):
            return x, said  # a model with half-precision weights may convert its inputs itself
        return x.to(own), (*said, f"x is {_short(x.dtype)}: taken as {_short(own)}")
    if whole_numbers(module, x.float()) is not None:
        return x.to(torch.int64), said
    if not _floating_graph(module) and refusal(module, x[:1]) is None:
        return x, said
    if x.dtype == torch.uint8:
        return x.to(own) / 255, (*said, "x is uint8: taken for pixels and divided by 255")
    return x.to(own), (*said, f"x is {_short(x.dtype)}: taken as it is, as {_short(own)}")


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


def refusal(module: nn.Module, x: Tensor) -> BaseException | None:
    """What the model's own code raises on x, if anything; tried on a copy, for a forward may leave traces."""
    memo = {id(p): p for p in module.parameters()}
    tensors = (t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor))
    tried = copy.deepcopy(module, memo | {id(t): t for t in tensors})  # type: ignore[arg-type]
    device = next((p.device for p in module.parameters()), x.device)
    try:
        run_over(tried, x.to(device), 1)
    except InputError as error:
        return error.__cause__ or error
    return None


def tokens(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Integers as such: data are read as float32, which holds them exactly up to 2^24.

    Raises:
        InputError: if x holds other numbers.
    """
    if not torch.equal(x, x.floor()) or float(x.abs().max()) >= 2**24:
        raise InputError(
            "the model takes whole numbers, such as tokens, and x holds others: "
            "save x.astype('int64'), each below 16777216"
        )
    return x.to(dtype)


def _floating_graph(module: nn.Module) -> bool:
    return isinstance(module, torch.fx.GraphModule)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
