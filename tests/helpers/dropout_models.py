"""Models without dropout, and where a person would place it."""

import torch
import torch.nn.functional as F
from torch import nn

from crossbar_sim import Key
from crossbar_sim.nn import seeded


class Residual(nn.Module):
    """A stem, a block around an identity, one around a projection; one ReLU module for all of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)
        self.a1, self.an1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.a2, self.an2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b1, self.b2 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(x + self.an2(self.a2(self.relu(self.an1(self.a1(x))))))
        y = self.b2(F.relu(self.b1(x)))
        y += self.down(x)
        return self.fc(y.mean((2, 3)))


class Attention(nn.Module):
    """One head by hand, torch's attention, a feed-forward part."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.proj((q @ k.transpose(1, 2) / 3).softmax(-1) @ v)
        x = x + self.attention(x, x, x)[0]
        x = x + self.down(self.act(self.up(x)))
        return self.head(x.mean(1))


class SeparateProjections(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 8) for _ in range(3))
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.head(self.out(y))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.rnn, self.fc = kind(5, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.rnn(x)[0][:, -1])


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.GRU(5, 6), nn.Linear(6, 2)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]))
        return self.fc(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0][0])


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.fc1, self.fc2 = nn.GRUCell(5, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(self.cell(x))))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one, self.other = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        h = F.elu(self.body(x))
        return torch.cat([self.one(h), self.other(h)], 1)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.inner(self.inner(x)))


class Untraceable(nn.Module):
    """Its forward asks for values. Registered in the order of use."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6))
        self.attention = nn.MultiheadAttention(6, 2)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        x = self.body(x)
        return self.out(self.attention(x, x, x)[0])


class Own(nn.Linear):
    """A subclass of a layer, with a forward that cannot be traced."""

    def forward(self, x):
        return super().forward(x) if x.dtype.is_floating_point and len(x) else x


def sequential(conv=nn.Conv2d, size=6, **kw):
    dims = {nn.Conv1d: 1, nn.ConvTranspose1d: 1, nn.Conv3d: 3, nn.ConvTranspose3d: 3}.get(conv, 2)
    side = size + 2 if "Transpose" in conv.__name__ else size - 2
    return nn.Sequential(conv(1, 4, 3), nn.ELU(), nn.Flatten(), nn.Linear(4 * side**dims, 2))


# The model, its input, and for each site its name, its kind and the module whose output it drops.
CASES = {
    "linear layers": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3), nn.Linear(3, 2)),
        (7, 5),
        [("0", "Dropout", "1"), ("2", "Dropout", "2")],
    ),
    "norm and activation": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.SiLU(), nn.ReLU(), nn.Linear(4, 3)),
        (7, 5),
        [("0", "Dropout", "2")],
    ),
    "norm after the activation": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.SiLU(), nn.LayerNorm(4), nn.Linear(4, 3)),
        (7, 5),
        [("0", "Dropout", "1")],
    ),
    **{
        conv.__name__: (
            lambda conv=conv: sequential(conv),
            (2, 1, *[6] * dims),
            [("0", f"Dropout{dims}d", "1")],
        )
        for conv, dims in (
            (nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3), (nn.ConvTranspose1d, 1), (nn.ConvTranspose2d, 2),
            (nn.ConvTranspose3d, 3),
        )
    },
    "residual blocks": (
        Residual,
        (2, 1, 8, 8),
        [
            ("stem", "Dropout2d", "stem"),  # its ReLU is called elsewhere too
            ("a1", "Dropout2d", "an1"),
            ("a2", "Dropout2d", "an2"),
            ("b1", "Dropout2d", "b1"),
            ("b2", "Dropout2d", "b2"),
        ],
    ),
    "attention": (
        Attention,
        (2, 3, 5),
        [
            ("embed", "Dropout", "embed"),
            ("proj", "Dropout", "proj"),
            ("attention", "Dropout", "attention"),
            ("up", "Dropout", "act"),
            ("down", "Dropout", "down"),
        ],
    ),
    "separate projections": (SeparateProjections, (2, 3, 5), [("out", "Dropout", "out")]),
    "LSTM": (Recurrent, (2, 3, 5), [("rnn", "Dropout", "rnn")]),
    "RNN": (lambda: Recurrent(nn.RNN), (2, 3, 5), [("rnn", "Dropout", "rnn")]),
    "packed sequence": (Packed, (4, 2, 5), [("rnn", "Dropout", "rnn")]),
    "recurrent cell": (Cell, (2, 5), [("fc1", "Dropout", "fc1")]),
    "two heads": (TwoHeads, (2, 5), [("body", "Dropout", "body")]),
    "called twice": (Twice, (2, 5), [("inner", "Dropout", "inner")]),
    "untraceable": (
        Untraceable,
        (2, 5),
        [("body.0", "Dropout", "body.2"), ("body.3", "Dropout", "body.3"), ("attention", "Dropout", "attention")],
    ),
    "subclass": (
        lambda: nn.Sequential(Own(5, 9), nn.Tanh(), nn.Linear(9, 2)),
        (2, 5),
        [("0", "Dropout", "1")],
    ),
}  # fmt: skip


def numbers(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(torch.Size(shape).numel())) * 1.7 + 0.3).reshape(shape)


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    build, shape, _ = CASES[name]
    with seeded(Key(0).fold("sites")):
        return build(), numbers(*shape)
