"""Einsums as matrix products: which indices of a parameter are inputs, outputs and separate matrices."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

Index = str
"""One letter of an equation; ".0", ".1", ... for the dimensions of an ellipsis, counted from the last one."""


@dataclass(frozen=True)
class Equation:
    """An equation of `torch.einsum`.

    Args:
        terms: the indices of each operand.
        out: of the result.
    """

    terms: tuple[tuple[Index, ...], ...]
    out: tuple[Index, ...]

    @classmethod
    def of(cls, text: str, ranks: Sequence[int | None]) -> "Equation | None":
        """Parse an equation for operands of so many dimensions (None: unknown); None if the two do not fit."""
        left, arrow, right = text.replace(" ", "").partition("->")
        parts = left.split(",")
        if len(parts) != len(ranks):
            return None
        terms, widest = [], 0
        for part, rank in zip(parts, ranks, strict=True):
            before, dots, after = part.partition("...")
            if dots and rank is None:
                return None
            hidden = (rank or 0) - len(before) - len(after) if dots else 0
            if hidden < 0 or (rank is not None and rank != len(before) + len(after) + hidden):
                return None
            widest = max(widest, hidden)
            terms.append((*before, *_hidden(hidden), *after))
        if arrow:
            before, dots, after = right.partition("...")
            out = (*before, *(_hidden(widest) if dots else ()), *after)
        else:
            every = "".join(parts).replace(".", "")
            out = (*_hidden(widest), *sorted(c for c in set(every) if every.count(c) == 1))
        return cls(tuple(terms), out)


def _hidden(count: int) -> tuple[Index, ...]:
    return tuple(f".{i}" for i in reversed(range(count)))


def of_tensordot(ranks: tuple[int, int], summed: tuple[Sequence[int], Sequence[int]]) -> str:
    """The equation of a `torch.tensordot`.

    Args:
        ranks: dimensions of the two operands.
        summed: those that are summed over, of each.

    >>> of_tensordot((2, 3), ([1], [0]))
    'ab,bde->ade'
    """
    left, right = list(string.ascii_letters[: ranks[0]]), list(string.ascii_letters[ranks[0] : sum(ranks)])
    for a, b in zip(*summed, strict=True):
        right[b] = left[a]
    both = {left[a] for a in summed[0]}
    out = [i for i in (*left, *right) if i not in both]
    return f"{''.join(left)},{''.join(right)}->{''.join(out)}"


@dataclass(frozen=True)
class Roles:
    """How an operand of an einsum is a matrix, or several of them.

    Args:
        separate: indices that inputs and result have too: each value of them is another matrix.
        summed: its inputs.
        outputs: those that the inputs do not have.
    """

    separate: tuple[Index, ...]
    summed: tuple[Index, ...]
    outputs: tuple[Index, ...]


@dataclass(frozen=True)
class Step:
    """One product of an einsum: the result so far with one more operand.

    Args:
        operand: its number.
        roles: of a parameter that is a matrix in this product; else the reason why it is none, "" for an input.
        left: indices of the result so far.
        out: indices of the new result.
    """

    operand: int
    roles: Roles | str
    left: tuple[Index, ...]
    out: tuple[Index, ...]


def steps(
    equation: Equation, fed: Sequence[bool], shapes: Sequence[tuple[int, ...] | None]
) -> tuple[int, tuple[Step, ...]] | None:
    """The products of an einsum, in an order in which as many parameters as possible are matrices.

    One input comes first, the parameters one after the other (each multiplied with what the ones before it gave), and
    at last the other inputs.

    Args:
        equation: the equation.
        fed: which operands depend on inputs.
        shapes: of the operands, where known.

    Returns:
        The number of the first operand, and the products with the others; None where no operand is an input.
    """
    inputs = [i for i, is_fed in enumerate(fed) if is_fed]
    weights = [i for i, is_fed in enumerate(fed) if not is_fed]
    found = [
        (first, _in_order(equation, [first, *weights, *(i for i in inputs if i != first)], fed, shapes))
        for first in inputs
    ]
    return max(found, key=lambda pair: sum(isinstance(step.roles, Roles) for step in pair[1]), default=None)


def _in_order(
    equation: Equation, order: list[int], fed: Sequence[bool], shapes: Sequence[tuple[int, ...] | None]
) -> tuple[Step, ...]:
    left, found = equation.terms[order[0]], []
    for place, k in enumerate(order[1:], start=1):
        later = {i for other in order[place + 1 :] for i in equation.terms[other]} | set(equation.out)
        both = dict.fromkeys((*left, *equation.terms[k]))
        out = equation.out if place == len(order) - 1 else tuple(i for i in both if i in later)
        seen = [shapes[other] for other in order[: place + 1]]
        terms = [equation.terms[other] for other in order[: place + 1]]
        found.append(
            Step(k, "" if fed[k] else _roles(equation.terms[k], left, later, terms, seen), left, out)
        )
        left = out
    return tuple(found)


def _roles(
    own: tuple[Index, ...],
    left: tuple[Index, ...],
    later: set[Index],
    terms: list[tuple[Index, ...]],
    shapes: list[tuple[int, ...] | None],
) -> Roles | str:
    """The roles of a parameter's indices, or why it is not a matrix; `terms` and `shapes` end with its own."""
    repeated = [i for i in own if own.count(i) > 1]
    if repeated:
        return f"it has the index {_name(repeated[0])} twice"
    sizes: dict[Index, set[int]] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape or (), strict=False):
            if isinstance(size, int):  # and not known only when the model runs
                sizes.setdefault(index, set()).add(size)
    spread = [i for i in own if i in left and len(sizes.get(i, ())) > 1]
    if spread:
        return f"its index {_name(spread[0])} is broadcast"
    alone = [i for i in own if i not in left and i not in later]
    if alone:
        return f"its index {_name(alone[0])} is summed by itself"
    roles = Roles(
        tuple(i for i in own if i in left and i in later),
        tuple(i for i in own if i in left and i not in later),
        tuple(i for i in own if i not in left),
    )
    return roles if roles.summed else "no index of it is summed together with an input's"


def _name(index: Index) -> str:
    return "of the ellipsis" if index.startswith(".") else index
