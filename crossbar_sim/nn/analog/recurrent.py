"""Recurrent layers step by step: every product of every time step singly, so that it can go through an array.

torch runs a whole LSTM, GRU or RNN as one operator. The functions here compute the same (equations: the documentation
of `torch.nn.LSTM`, `GRU` and `RNN`), with a call of `linear` for each product.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

States = tuple[Tensor, ...]
"""The hidden state (b, h), and for an LSTM the cell state (b, c) behind it."""


def _lstm(given: Tensor, held: Tensor, states: States) -> States:
    i, f, g, o = (given + held).chunk(4, -1)
    cell = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru(given: Tensor, held: Tensor, states: States) -> States:
    (r, z, n), (hr, hz, hn) = given.chunk(3, -1), held.chunk(3, -1)
    new = (n + (r + hr).sigmoid() * hn).tanh()
    return (new + (z + hz).sigmoid() * (states[0] - new),)


_STEPS: dict[str, Callable[[Tensor, Tensor, States], States]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": lambda given, held, _: ((given + held).tanh(),),
    "rnn_relu": lambda given, held, _: ((given + held).relu(),),
}
"""New states from the products with the inputs and with the hidden state, biases included, and the old states."""


def cell(kind: str, x: Tensor, hx: Any, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Any:
    """One step, as `torch.lstm_cell` and the like.

    Args:
        kind: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        x: inputs (b, i), or (i,).
        hx: the states before.
        weights, biases: of the inputs and of the hidden state.
    """
    states = tuple(hx) if kind == "lstm" else (hx,)
    given, held = (F.linear(v, w, b) for v, w, b in zip((x, states[0]), weights, biases, strict=True))
    new = _STEPS[kind](given, held, states)
    return new if kind == "lstm" else new[0]


def layers(
    kind: str,
    x: Tensor,
    hx: Any,
    parameters: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """All steps of all layers, as `torch.lstm` and the like.

    Args:
        kind: see `cell`.
        x: inputs (steps, b, i), (b, steps, i) with `batch_first`, or (rows, i) of a packed sequence.
        hx: the first states, each (layers directions, b, h).
        parameters: of the layers and directions, one after the other, in torch's order.
        has_biases, num_layers, dropout, train, bidirectional: as torch's.
        sizes: of a packed sequence, the examples in each step.

    Returns:
        The outputs in the order of the inputs, and the last states.
    """
    start = tuple(hx) if kind == "lstm" else (hx,)
    directions = 1 + bidirectional
    each = len(parameters) // (num_layers * directions)
    x = x.transpose(0, 1) if batch_first and sizes is None else x
    last: list[States] = []
    for n in range(num_layers):
        outputs = []
        for way in range(directions):
            k = len(last)
            own = parameters[k * each : (k + 1) * each]
            states = tuple(s[k] for s in start)
            y, states = _direction(kind, x, states, own, has_biases, bool(way), sizes)
            outputs.append(y)
            last.append(states)
        x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        if dropout and train and n + 1 < num_layers:
            x = F.dropout(x, dropout, True)
    x = x.transpose(0, 1) if batch_first and sizes is None else x
    return (x, *(torch.stack(kept) for kept in zip(*last, strict=True)))


def _direction(
    kind: str,
    x: Tensor,
    states: States,
    own: Sequence[Tensor],
    has_biases: bool,
    backwards: bool,
    sizes: Sequence[int] | None,
) -> tuple[Tensor, States]:
    biases = own[2:4] if has_biases else (None, None)
    projection = own[-1] if len(own) % 2 else None
    if sizes is None:  # examples first: their reads are numbered by example
        given = F.linear(x.transpose(0, 1), own[0], biases[0]).unbind(1)
    else:
        given = F.linear(x, own[0], biases[0]).split(list(sizes))
    outputs: list[Tensor] = []
    for part in reversed(given) if backwards else given:
        acting = tuple(s[: len(part)] for s in states)  # the longer sequences of a packed batch come first
        new = _STEPS[kind](part, F.linear(acting[0], own[1], biases[1]), acting)
        if projection is not None:
            new = (F.linear(new[0], projection), *new[1:])
        outputs.append(new[0])
        states = tuple(torch.cat([n, s[len(part) :]]) for n, s in zip(new, states, strict=True))
    outputs = outputs[::-1] if backwards else outputs
    return torch.stack(outputs) if sizes is None else torch.cat(outputs), states
