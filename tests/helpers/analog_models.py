"""Layers and models that the tests of the analog side share: add a layer here, and every test takes it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from crossbar_sim import Hardware, Key, LogNormalDrift
from crossbar_sim.nn.seeding import seeded

DRIFT = LogNormalDrift(0.5)
PLAIN = Hardware(drift=DRIFT)


def numbers(*shape: int) -> torch.Tensor:
    """Numbers of both signs that no two places share."""
    return torch.sin(torch.arange(float(torch.Size(shape).numel())) * 1.7 + 0.3).reshape(shape)


def made(build: Callable[[], nn.Module]) -> nn.Module:
    """A module with the same random weights every time, in evaluation mode."""
    with seeded(Key(0).fold("test")):
        return build().eval()


def first(y: Any) -> torch.Tensor:
    """The output that is compared: all tensors of it, flattened into one."""
    if isinstance(y, torch.Tensor):
        return y.reshape(-1)
    return torch.cat([first(part) for part in y if part is not None])


class Case(NamedTuple):
    """A layer, its inputs and its number of crossbar matrices."""

    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    matrices: int
    keywords: dict[str, Any] = {}  # noqa: RUF012 - never changed


def _image(dims: int, channels: int = 4) -> tuple[torch.Tensor]:
    return (numbers(2, channels, *(9, 8, 7)[:dims]),)


X, MEMORY = numbers(2, 5, 8), numbers(2, 6, 8)

LAYERS: dict[str, Case] = {
    "linear": Case(lambda: nn.Linear(6, 5), (numbers(3, 6),), 1),
    "linear without bias": Case(lambda: nn.Linear(6, 5, bias=False), (numbers(3, 6),), 1),
    "linear on sequences": Case(lambda: nn.Linear(6, 5), (numbers(2, 3, 6),), 1),
    "linear over a tile": Case(lambda: nn.Linear(150, 140), (numbers(3, 150),), 1),
    **{
        f"conv{d}d {name}": Case(
            lambda conv=conv, kw=kw: conv(4, 6, **{"kernel_size": 3, **kw}), _image(d), 1
        )
        for d, conv in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d))
        for name, kw in {
            "plain": {},
            "no bias": {"bias": False},
            "groups": {"groups": 2},
            "dilation": {"dilation": 2},
            "stride": {"stride": 2, "padding": 1},
            "same": {"padding": "same", "dilation": 2},
            "valid": {"padding": "valid"},
            "even same": {"kernel_size": 2, "padding": "same"},
            **{m: {"padding": 2, "padding_mode": m} for m in ("zeros", "reflect", "replicate", "circular")},
        }.items()
        if not (d == 3 and name in ("even same",))
    },
    "conv2d depthwise": Case(lambda: nn.Conv2d(4, 8, 3, groups=4), _image(2), 1),
    "conv2d oblong": Case(
        lambda: nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), _image(2), 1
    ),
    "conv2d oblong circular": Case(
        lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"), _image(2), 1
    ),
    "conv2d unbatched": Case(lambda: nn.Conv2d(4, 6, 3), (numbers(4, 9, 8),), 1),
    **{
        f"conv transpose{d}d {name}": Case(
            lambda conv=conv, kw=kw: conv(4, 6, **{"kernel_size": 3, **kw}), _image(d), 1
        )
        for d, conv in ((1, nn.ConvTranspose1d), (2, nn.ConvTranspose2d), (3, nn.ConvTranspose3d))
        for name, kw in {
            "plain": {},
            "no bias": {"bias": False},
            "groups": {"groups": 2},
            "output padding": {"stride": 3, "padding": 1, "output_padding": 1},
            "dilation": {"dilation": 2, "stride": 2},
        }.items()
    },
    "attention": Case(lambda: nn.MultiheadAttention(8, 2, batch_first=True), (X, X, X), 2),
    "attention, batch second": Case(lambda: nn.MultiheadAttention(8, 2), (X, X, X), 2),
    "attention without weights": Case(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True), (X, X, X), 2, {"need_weights": False}
    ),
    "attention across": Case(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True), (X, MEMORY, MEMORY), 2
    ),
    "attention of other widths": Case(
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        (X, numbers(2, 6, 6), numbers(2, 6, 4)),
        4,
    ),
    "attention with bias_k": Case(
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True), (X, X, X), 2
    ),
    "attention without bias": Case(
        lambda: nn.MultiheadAttention(8, 2, bias=False, batch_first=True), (X, X, X), 2
    ),
    "encoder layer": Case(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (X,), 4
    ),
    "encoder layer, norm first": Case(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True), (X,), 4
    ),
    "decoder layer": Case(
        lambda: nn.TransformerDecoderLayer(8, 2, 12, batch_first=True), (X, MEMORY), 6
    ),
    **{
        f"{rnn.__name__} {name}": Case(lambda rnn=rnn, kw=kw: rnn(8, 6, **kw), (X,), n)
        for rnn in (nn.LSTM, nn.GRU, nn.RNN)
        for name, kw, n in (
            ("plain", {}, 2),
            ("two layers", {"num_layers": 2, "batch_first": True}, 4),
            ("both ways", {"bidirectional": True}, 4),
            ("no bias", {"bias": False}, 2),
        )
    },
    "RNN relu": Case(lambda: nn.RNN(8, 6, nonlinearity="relu"), (X,), 2),
    "LSTM projected": Case(
        lambda: nn.LSTM(8, 6, proj_size=3, bidirectional=True, num_layers=2), (X,), 12
    ),
    "LSTM with a state": Case(
        lambda: nn.LSTM(8, 6), (X, (numbers(1, 5, 6), numbers(1, 5, 6))), 2
    ),
    **{
        f"{cell.__name__}": Case(lambda cell=cell: cell(8, 6), (numbers(3, 8),), 2)
        for cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    },
}  # fmt: skip
"""Every kind of layer that runs on arrays."""
