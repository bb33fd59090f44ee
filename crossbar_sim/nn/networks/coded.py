"""A network whose outputs are the bits of code words, decoded to one score per class."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.errors import InputError


class Coded(nn.Module):
    """A network with one output per bit, and what its outputs say about each class.

    Class k has a code word c_k of bits, and output z_j says that bit j is 1 with probability sigmoid(z_j):

        logit_k = sum_j ln P(bit j = c_kj) = sum_j c_kj z_j - sum_j ln(1 + exp z_j)

    the log-likelihood of the word, so that softmax gives the classes' probabilities; for outputs that are all equally
    certain the largest is the word nearest in Hamming distance.

    Args:
        network: maps (b, ...) to (b, bits), or the name of one of ours that does.
        arguments: of the named network; its classes are the bits.
        codes: one code word per class, as text: ("0011010", "1100101", ...).

    Raises:
        InputError: if code words are not such, or two are the same, or the network has another number of outputs.
    """

    codes: Tensor

    def __init__(
        self,
        network: str | nn.Module = "mlp",
        arguments: Mapping[str, Any] | None = None,
        codes: Iterable[str] = (),
    ) -> None:
        super().__init__()
        words = check_codes(codes)
        self.arguments: dict[str, Any] = {"codes": words}
        if isinstance(network, str):
            network, described = _named(network, dict(arguments or {}), len(words[0]))
            self.arguments = {**described, **self.arguments}
        self.network = network
        bits = torch.tensor([[float(bit) for bit in word] for word in words])
        self.register_buffer("codes", bits, persistent=False)  # the arguments hold them

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, ...) to logits (b, classes)."""
        return self.decode(self.network(x))

    def decode(self, z: Tensor) -> Tensor:
        """Log-likelihoods (b, classes) of outputs (b, bits)."""
        return z @ self.codes.T + functional.logsigmoid(-z).sum(1, keepdim=True)


def check_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """Code words as a tuple of texts of equal length, all different.

    Raises:
        InputError: saying what is wrong.
    """
    words = () if isinstance(codes, str) else tuple(codes)
    if len(words) < 2 or any(
        not isinstance(word, str) or not word or set(word) - set("01") for word in words
    ):
        raise InputError(
            "codes: one text of 0s and 1s per class is needed, for two classes or more, such as ('0011', '1100')"
        )
    if len({len(word) for word in words}) > 1:
        raise InputError(f"codes: words of {len(words[0])} and of other numbers of bits: all must be as long")
    if len(set(words)) < len(words):
        raise InputError(
            f"codes: {len(words)} classes share {len(set(words))} words: each class needs its own"
        )
    return words


def _named(name: str, arguments: dict[str, Any], bits: int) -> tuple[nn.Module, dict[str, Any]]:
    from crossbar_sim.nn.networks import build  # which lists this class too

    if name == "coded":
        raise InputError("network 'coded' takes a network that is not itself coded")
    if arguments.setdefault("classes", bits) != bits:
        raise InputError(
            f"network {name!r} has {arguments['classes']} outputs and the code words {bits} bits: they must be as many"
        )
    return build(name, **arguments), {"network": name, "arguments": arguments}
