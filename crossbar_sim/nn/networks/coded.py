"""Networks with one output per bit of a code word, and averages of networks."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.base import build, count
from crossbar_sim.validate import is_int


class AveragedOutputs(nn.Module):
    """A network with copies x classes outputs, whose copies are averaged to one output per class.

    Outputs i copies .. (i + 1) copies - 1 of the network are those of class i. The mean is digital. The output layer
    has the fewest inputs to average over and errs most; its copies are a small part of all cells.

    Args:
        network: maps (b, ...) to (b, classes copies), or the name of a built-in network that does.
        copies: outputs per class.
        classes: of a named network.
        arguments: of a named network, but its classes.

    Raises:
        InputError: if copies is no integer >= 2, or the named network cannot be built.
    """

    def __init__(
        self,
        network: str | nn.Module = "mlp",
        copies: int = 8,
        classes: int = 10,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not is_int(copies) or copies < 2:
            raise InputError(
                f"copies={copies!r}: an integer >= 2 is needed, one output per class needs no average"
            )
        self.copies, self.name, self.classes = copies, None, None
        if isinstance(network, str):
            self.name, self.classes = network, count("classes", classes)
            network = _averaged_name(network, dict(arguments or {}), copies * self.classes)
        elif arguments is not None:
            raise InputError("arguments are for a network given by its name, not for a module")
        self.network = network

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments that rebuild it, with the current dropout rates; None around a user's module."""
        if self.name is None:
            return None
        own: dict[str, Any] = dict(self.network.arguments)  # type: ignore[arg-type]
        del own["classes"]
        return {"network": self.name, "copies": self.copies, "classes": self.classes, "arguments": own}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits (b, classes).

        Raises:
            InputError: if the network's outputs are no multiple of the copies.
        """
        outputs: Tensor = self.network(*args, **kwargs)
        if outputs.ndim != 2 or outputs.shape[1] % self.copies:
            raise InputError(
                f"the network gives {tuple(outputs.shape[1:])} outputs per example: a multiple of {self.copies}, "
                "one group per class, is needed"
            )
        return outputs.unflatten(1, (-1, self.copies)).mean(2)


def _averaged_name(name: str, arguments: dict[str, Any], outputs: int) -> nn.Module:
    if name in ("averaged", "coded"):
        raise InputError(f"network 'averaged' takes a network of single outputs, not {name!r}")
    if "classes" in arguments:
        raise InputError("classes go beside the network's arguments: it has copies x classes outputs")
    return build(name, **arguments, classes=outputs)


class Coded(nn.Module):
    """A network with one output per bit of a code word, decoded to one score per class.

    Class k has a code word c_k of bits, and output z_j says that bit j is 1 with probability sigmoid(z_j):

        logit_k = sum_j ln P(bit j = c_kj) = sum_j c_kj z_j - sum_j ln(1 + exp z_j)

    the log-likelihood of the word, so that softmax gives the classes' probabilities; for outputs that are all equally
    certain the largest is the word nearest in Hamming distance.

    Args:
        network: maps (b, ...) to (b, bits), or the name of a built-in network that does.
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

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Map (b, ...) to logits (b, classes)."""
        return self.decode(self.network(*args, **kwargs))

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
    if name == "coded":
        raise InputError("network 'coded' takes a network that is not itself coded")
    if arguments.setdefault("classes", bits) != bits:
        raise InputError(
            f"network {name!r} has {arguments['classes']} outputs and the code words {bits} bits: they must be as many"
        )
    return build(name, **arguments), {"network": name, "arguments": arguments}
