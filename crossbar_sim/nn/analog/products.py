"""Weights that know their array: products with them go through converters and read noise, tile by tile."""

import math
import types
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbar_sim.nn.analog import recurrent
from crossbar_sim.nn.analog.einsum import Equation, Roles, of_tensordot, steps
from crossbar_sim.nn.analog.exported_products import addresses
from crossbar_sim.nn.analog.state import next_read
from crossbar_sim.nn.analog.stored_matrices import BlockRead, reads_of
from crossbar_sim.nn.analog.tiled_arrays import Tiled, Window, convolve, spread

# The programmed weight of such an array is a tensor that knows its array. Where a linear layer or a convolution
# takes it, the product goes through the array's converters; every other operator sees the plain effective
# weight (and the report says which layers never went through their converters).


class OnTiles(Tensor):
    """A programmed weight, or a bias that is a row of the same array, with a reference to its array.

    `places` is None, or says where the values lie in the weight's memory, if they are a copy in another order.
    """

    tiled: Tiled
    places: Tensor | None = None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Products through the array; anything else on the plain weight."""
        kwargs = kwargs or {}
        rule = _RULES.get(func) or _NAMED.get(str(func))
        if rule is not None:
            y = rule(func, args, kwargs)
            if y is not None:
                return y
        bare, named = torch.utils._pytree.tree_map(plain, (args, kwargs))
        result = func(*bare, **named)
        views = _views(result, args)
        if views is None:
            views = _copied(func, result, args, kwargs)
        if views is not None:
            return views
        if isinstance(result, Tensor) and result.is_floating_point():  # and no shape, no device
            for value in torch.utils._pytree.tree_leaves((args, kwargs)):
                if isinstance(value, OnTiles):
                    value.tiled.design.bypassed.add(value.tiled.slot.layer)
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are plain tensors."""
        return plain(self).__reduce_ex__(protocol)


def _views(result: Any, args: Any) -> Any:
    """Views of a weight with a reference to its array: transposes, slices, chunks; None for any other result."""
    weight = args[0] if args and isinstance(args[0], OnTiles) else None
    found = result if isinstance(result, list | tuple) else (result,)
    if weight is None or not found or not all(isinstance(v, Tensor) for v in found):
        return None
    held = weight.untyped_storage()._cdata
    if any(v.untyped_storage()._cdata != held or v.dtype != weight.dtype for v in found):
        return None
    kept = [on_tiles(v, weight.tiled) for v in found]
    for v in kept if weight.places is not None else ():
        assert weight.places is not None
        v.places = weight.places.as_strided(v.shape, v.stride(), v.storage_offset())
    return (
        kept[0]
        if isinstance(result, Tensor)
        else type(result)(kept)
        if type(result) in (list, tuple)
        else None
    )


_COPYING = ("contiguous", "clone", "reshape", "flatten", "_unsafe_view")
"""Operators that may copy a weight into another order."""


def _copied(func: Any, result: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A copy of a weight in another order, with a reference to its array; None for any other result."""
    weight = args[0] if args and isinstance(args[0], OnTiles) else None
    name = str(getattr(func, "__name__", "")).split(".")[0]
    if (
        weight is None
        or name not in _COPYING
        or not isinstance(result, Tensor)
        or result.dtype != weight.dtype
    ):
        return None
    copied = on_tiles(result, weight.tiled)
    copied.places = func(_places(weight), *args[1:], **kwargs)
    return copied if result.storage_offset() == 0 and result.is_contiguous() else None


def _places(weight: OnTiles) -> Tensor:
    """Where the values of a view or a copy lie in the weight's memory."""
    return addresses(plain(weight)) if weight.places is None else weight.places


def _part(weight: OnTiles, into: int, out: int) -> tuple[int, int] | None:
    """The first word line and bit line of a 2-D view of a weight; None where it is not a part of one matrix.

    Args:
        weight: the view.
        into, out: its dimensions for inputs and outputs.
    """
    layout = weight.tiled.slot.layout
    if (
        weight.dim() != 2
        or weight.places is not None
        or layout.groups != 1
        or layout.order not in ("out_in", "in_out")
    ):
        return None
    rows, cols = layout.rows, layout.cols
    by_column = layout.order == "out_in"
    line = rows if by_column else cols
    steps = (1, line) if by_column else (line, 1)  # from a word line to the next, from a bit line to the next
    fits = [
        weight.shape[d] < 2 or weight.stride(d) == step for d, step in zip((into, out), steps, strict=True)
    ]
    across, along = divmod(int(weight.storage_offset()), line) if line else (0, 0)
    row, col = (along, across) if by_column else (across, along)
    inside = row + weight.shape[into] <= rows and col + weight.shape[out] <= cols
    return (row, col) if all(fits) and inside else None


def on_tiles(weight: Tensor, tiled: Tiled) -> Any:
    """The programmed weight with its array attached; gradients pass."""
    held = weight.as_subclass(OnTiles)
    held.tiled = tiled
    return held


def plain(value: Any) -> Any:
    """A tensor without its array; anything else unchanged."""
    return value.as_subclass(Tensor) if isinstance(value, OnTiles) else value


class _Product(torch.autograd.Function):
    """Forward: through the array. Backward: as if it were linear, straight through every rounding."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, row: Tensor | None, tiled: Tiled, forward: Any, linear: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, row)
        ctx.linear = linear
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = ctx.saved_tensors
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_(True) for t in saved]
            y = ctx.linear(*inputs)
            wanted = [t for t, need in zip(inputs, ctx.needs_input_grad[:3], strict=True) if need]
            found = iter(torch.autograd.grad(y, wanted, grads[0])) if wanted else iter(())
        needs = ctx.needs_input_grad[:3]
        return (*(next(found) if need else None for need in needs), None, None, None)


def _through(
    x: Tensor, weight: OnTiles, bias: Tensor | None, forward: Any, linear: Any, channel: int
) -> Tensor:
    """The product through the array plus a digital bias along dimension `channel`."""
    tiled = weight.tiled
    row = bias if isinstance(bias, OnTiles) and bias.tiled.slot is tiled.slot else None
    has_row = row is not None
    y = _Product.apply(
        plain(x), plain(weight), plain(row), tiled, lambda value: forward(value, has_row), linear
    )
    if bias is not None and row is None:
        shape = [1] * y.dim()
        shape[channel] = -1
        y = y + plain(bias).reshape(shape)
    return y


def _linear(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    x, weight, bias = named["input"], named["weight"], named.get("bias")
    y = _with_part(x, weight, bias, 1, F.linear)
    if y is None and isinstance(weight, OnTiles) and not isinstance(x, OnTiles) and weight.dim() == 2:
        y = _times(x, weight.t())
        y = y if y is None or bias is None else y + plain(bias)
    return y


def _matmul(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    if kwargs or len(args) != 2:
        return None
    left, right = args
    if isinstance(left, OnTiles):
        if isinstance(right, OnTiles) or left.dim() < 2 or not right.dim():
            return None
        y = _times(right.unsqueeze(0) if right.dim() == 1 else right.mT, left.mT)
        return y if y is None else y.squeeze(-2) if right.dim() == 1 else y.mT
    y = _with_part(left, right, None, 0, torch.matmul)
    return _times(left, right) if y is None else y


def _addmm(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    if kwargs or len(args) != 3:
        return None  # with factors
    added, left, right = args
    one_row = not isinstance(left, OnTiles) and added.dim() == 1
    y = _with_part(left, right, added, 0, torch.matmul) if one_row else None
    if y is None:
        y = _matmul(func, (left, right), {})
        for weight in (left, right):
            if y is not None and isinstance(weight, OnTiles):
                weight.tiled.design.later.add(weight.tiled.slot.layer)
        y = y if y is None else y + plain(added)
    return y


def _with_part(x: Tensor, weight: Any, bias: Tensor | None, into: int, linear: Any) -> Tensor | None:
    """Inputs (..., n) times a view of a weight whose dimension `into` is theirs; None where an array cannot read it."""
    part = _part(weight, into, 1 - into) if isinstance(weight, OnTiles) else None
    if part is None or (x.dim() == 0 or x.shape[-1] != weight.shape[into]):
        return None
    tiled, (first_row, first_col), count = weight.tiled, part, weight.shape[1 - into]
    layout = tiled.slot.layout
    whole = count == layout.cols
    if isinstance(bias, OnTiles) and not (whole and bias.numel() == count):
        bias = plain(bias)  # what its row holds for these columns, added digitally

    def forward(value: Tensor, row: bool) -> Tensor:
        flat = value.reshape(
            math.prod(value.shape[:-1]), value.shape[-1]
        )  # no -1: there may be nothing in it
        leading = len(value) if value.dim() > 1 else 1
        event, first = next_read(tiled.design, tiled.slot.name, len(flat), leading)
        if flat.shape[1] != layout.rows:  # the other word lines are not driven
            flat = F.pad(flat, (first_row, layout.rows - first_row - flat.shape[1]))
        vectors, driven = tiled.drive(flat, row)
        y = tiled.read(0, vectors, driven, event, first)
        y = y if whole else y[:, first_col : first_col + count].contiguous()  # forwards take views of it
        return y.to(value.dtype).reshape(*value.shape[:-1], y.shape[1])

    def same(value: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return linear(value, w) if b is None else linear(value, w) + b  # type: ignore[no-any-return]

    return _through(x, weight, bias, forward, same, -1)


def _times(x: Tensor, weight: Any) -> Tensor | None:
    """Inputs (..., n, k), or (k,), times matrices (..., k, m), as matmul; None where an array cannot read it."""
    if not isinstance(weight, OnTiles) or weight.dim() < 2 or not x.dim() or x.shape[-1] != weight.shape[-2]:
        return None
    if x.dim() == 1:
        y = _times(x.unsqueeze(0), weight)
        return y if y is None else y.squeeze(-2)
    batch = weight.dim() - 2
    ones = [d for d in range(batch) if weight.shape[d] == 1]  # those matrices multiply every example
    own = [f"batch {d - batch}" for d in range(batch) if d not in ones]
    x = x.reshape(*(1,) * (weight.dim() - x.dim()), *x.shape)
    leading = [f"batch {d - x.dim() + 2}" for d in range(x.dim() - 2)]
    sizes = dict(zip(own, (n for n in weight.shape[:-2] if n != 1), strict=True))
    if any(x.shape[d] not in (1, sizes.get(name, x.shape[d])) for d, name in enumerate(leading)):
        return None  # torch says what is wrong
    x = x.expand(*(sizes.get(name, n) for name, n in zip(leading, x.shape, strict=False)), *x.shape[-2:])
    held = weight.squeeze(ones) if ones else weight
    return _contract(x, (*leading, "n", "k"), held, (*own, "k", "m"), (*leading, "n", "m"))


def _contract(
    x: Tensor, given: Sequence[Hashable], weight: Any, own: Sequence[Hashable], out: Sequence[Hashable]
) -> Tensor | None:
    """The product of inputs with the matrices that a view of a weight holds; None where an array cannot read it.

    Args:
        x, weight: two operands of an einsum.
        given, own: the indices of their dimensions; indices in both have the same size.
        out: the indices of the result.
    """
    tiled: Tiled = weight.tiled
    separate = [i for i in own if i in given and i in out]
    summed = [i for i in own if i in given and i not in out]
    outputs = [i for i in own if i not in given]
    alone = [given.index(i) for i in given if i not in own and i not in out]
    x = x.sum(alone) if alone else x
    given = [i for i in given if i in own or i in out]
    rest = [i for i in given if i not in own]
    if not summed or not weight.numel() or len(set(given)) < len(given) or len(set(own)) < len(own):
        return None
    order = tuple(own.index(i) for i in (*separate, *summed, *outputs))
    sizes = dict(zip(own, weight.shape, strict=True)) | dict(zip(given, x.shape, strict=True))
    shape = tuple(math.prod(sizes[i] for i in part) for part in (separate, summed, outputs))
    tag = (order, shape, weight.shape, weight.stride(), weight.storage_offset())
    if weight.places is not None or tag not in tiled.plans:
        places = _places(weight).permute(order).reshape(shape).cpu().numpy()
        reads = [reads_of(matrix, tiled.slot.layout) for matrix in places]
        found = None if None in reads else tuple(read for read in reads if read is not None)
        if weight.places is None:
            tiled.plans[tag] = found
    else:
        found = tiled.plans[tag]
    if found is None:
        return None
    every = found
    tiled.design.later.add(tiled.slot.layer)
    n = math.prod(sizes[i] for i in rest)

    def forward(value: Tensor) -> Tensor:
        y = torch.zeros(len(every), n, shape[2], device=value.device)
        for s, reads in enumerate(every):
            for read in reads:
                y[s][:, torch.from_numpy(read.outputs)] += _read(
                    value[s], read, tiled, sizes[rest[0]] if rest else 1
                )
        return y.to(value.dtype)

    def linear(value: Tensor, w: Tensor, row: None = None) -> Tensor:
        return torch.matmul(value, w.permute(order).reshape(shape))

    vectors = x.permute([given.index(i) for i in (*separate, *rest, *summed)]).reshape(shape[0], n, shape[1])
    y = _Product.apply(vectors, plain(weight), None, tiled, forward, linear)
    kept = (*separate, *rest, *outputs)
    return y.reshape([sizes[i] for i in kept]).permute([kept.index(i) for i in out])


def _read(x: Tensor, read: BlockRead, tiled: Tiled, leading: int) -> Tensor:
    """Outputs (b, outputs) of one read of a block for the inputs (b, k) of its product."""
    event, first = next_read(tiled.design, tiled.slot.name, len(x), leading)
    lines = torch.zeros(len(x), tiled.slot.layout.rows, device=x.device)  # the others are not driven
    lines[:, torch.from_numpy(read.rows)] = x.detach().float()[:, torch.from_numpy(read.inputs)]
    vectors, driven = tiled.drive(lines, False)
    return tiled.read(read.group, vectors, driven, event, first)[:, torch.from_numpy(read.cols)]


def _einsum(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    text, given = args[0], args[1:]
    operands = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else list(given)
    if kwargs or not isinstance(text, str) or not all(isinstance(t, Tensor) for t in operands):
        return None
    shapes = [tuple(t.shape) for t in operands]
    equation = Equation.of(text, [len(shape) for shape in shapes])
    found = (
        None if equation is None else steps(equation, [not isinstance(t, OnTiles) for t in operands], shapes)
    )
    if equation is None or found is None:
        return None
    first, rest = found
    y, read = operands[first], False
    for step in rest:
        other, own = operands[step.operand], equation.terms[step.operand]
        product = None
        if isinstance(other, OnTiles) and isinstance(step.roles, Roles):
            product = _contract(y, step.left, other, own, step.out)
            read = read or product is not None
        if product is None:  # torch.einsum marks the layer of a weight that no array can read so
            product = _plain_einsum(y, step.left, other, own, step.out)
        y = product
    return y if read else None


def _plain_einsum(
    a: Tensor, left: Sequence[str], b: Tensor, right: Sequence[str], out: Sequence[str]
) -> Tensor:
    numbers = {index: n for n, index in enumerate(dict.fromkeys((*left, *right)))}
    if isinstance(b, OnTiles):
        b.tiled.design.bypassed.add(b.tiled.slot.layer)
    terms = [[numbers[i] for i in term] for term in (left, right, out)]
    return torch.einsum(a, terms[0], plain(b), terms[1], terms[2])  # type: ignore[no-any-return]


def _tensordot(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    a, b, *rest = args
    dims: Any = rest if len(rest) > 1 else kwargs.get("dims", rest[0] if rest else 2)
    dims = dims.tolist() if isinstance(dims, Tensor) else dims
    one, other = (range(-dims, 0), range(dims)) if isinstance(dims, int) else dims
    if kwargs.get("out") is not None or any(
        a.shape[p] != b.shape[q] for p, q in zip(one, other, strict=True)
    ):
        return None
    return _einsum(func, (of_tensordot((a.dim(), b.dim()), (one, other)), a, b), {})


def _bilinear(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    named = dict(zip(("input1", "input2", "weight", "bias"), args, strict=False)) | kwargs
    x, z, weight, bias = (named.get(name) for name in ("input1", "input2", "weight", "bias"))
    if not isinstance(weight, OnTiles) or x is None or z is None:
        return None
    leading = [f"batch {d}" for d in range(x.dim() - 1)]
    y = _contract(x, (*leading, "i"), weight, ("o", "i", "j"), (*leading, "o", "j"))
    if y is None:
        return None
    y = torch.matmul(y, z.unsqueeze(-1)).squeeze(-1)  # digital
    return y if bias is None else y + plain(bias)


def _grouped_mm(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """Rows of the inputs in groups that end at `ends`, each with a matrix of its own: experts."""
    x, weight, *rest = args
    ends = rest[0] if rest else kwargs.get("offs")
    if not isinstance(ends, Tensor) or len(rest) > 1 or kwargs.get("bias") is not None:
        return None
    if not isinstance(weight, OnTiles) or x.dim() != 2 or weight.dim() != 3:
        return None
    start, found = 0, []
    for end, matrix in zip(ends.tolist(), weight.unbind(0), strict=True):
        y = _times(x[start:end], matrix)
        if y is None:
            return None
        found.append(y)
        start = end
    found.append(x.new_zeros(len(x) - start, weight.shape[2]))
    return torch.cat(found)


def _recurrent_layers(kind: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs:
        return None
    x, second, *rest = args
    if not isinstance(second, Tensor) or second.dtype != torch.int64:  # no packed sequence
        return recurrent.layers(kind, x, second, *rest)
    hx, weights, has_biases, num_layers, dropout, train, bidirectional = rest
    sizes = second.tolist()
    return recurrent.layers(
        kind, x, hx, weights, has_biases, num_layers, dropout, train, bidirectional, sizes=sizes
    )


def _recurrent_cell(kind: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs:
        return None
    x, hx, *own = args
    return recurrent.cell(kind, x, hx, own[:2], (*own[2:], None, None)[:2])


def _transposed_convolution(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    return _spread(dict(zip(names, args, strict=False)) | kwargs)


_SPREADING: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _spread(named: dict[str, Any]) -> Tensor | None:
    x, weight, groups = named["input"], named["weight"], int(named.get("groups", 1))
    if not isinstance(weight, OnTiles) or weight.places is not None:
        return None
    layout = weight.tiled.slot.layout
    whole = weight.numel() == math.prod(layout.shape) and weight.is_contiguous()
    if layout.order != "transposed" or layout.groups != groups or not whole:
        return None
    dims = weight.dim() - 2
    if x.dim() == dims + 1:  # one image without a batch
        y = _spread(named | {"input": x.unsqueeze(0)})
        return None if y is None else y.squeeze(0)
    how = [named.get(n, usual) for n, usual in (("stride", 1), ("padding", 0), ("output_padding", 0))]
    dilation = named.get("dilation", 1)
    kernel = weight.shape[2:]
    back = _SPREADING[dims]
    # every bit line is one output channel at one element of the kernel
    one = (
        torch.eye(math.prod(kernel), device=x.device)
        .reshape(-1, 1, *kernel)
        .repeat(groups * weight.shape[1], *[1] * (dims + 1))
    )

    def gather(lines: Tensor) -> Tensor:
        return back(lines, one, None, *how, groups * weight.shape[1], dilation)  # type: ignore[no-any-return]

    return _through(
        x, weight, named.get("bias"), lambda value, row: spread(value, weight.tiled, groups, gather),
        lambda x, w, b=None: back(x, w, None, *how, groups, dilation), 1,
    )  # fmt: skip


def _convolution(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    named = dict(zip(names, args, strict=False)) | kwargs
    return _convolve(named, lambda x, w, b: func(x, w, b, *args[3:], **_rest(kwargs)))


def _general_convolution(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """aten.convolution, with `transposed` and `output_padding` before the groups."""
    names = (
        "input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    )  # fmt: skip
    named = dict(zip(names, args, strict=False)) | kwargs
    if named["transposed"]:
        return _spread(named)
    return _convolve(named, lambda x, w, b: func(x, w, b, *args[3:], **_rest(kwargs)))


def _rest(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}


def _convolve(named: dict[str, Any], same: Callable[..., Tensor]) -> Tensor | None:
    x, weight, bias = named["input"], named["weight"], named.get("bias")
    if not isinstance(weight, OnTiles) or weight.tiled.slot.layout.order != "out_in":
        return None
    if math.prod(weight.shape) != math.prod(weight.tiled.slot.layout.shape) or not weight.is_contiguous():
        return None  # a part of it
    dims = weight.dim() - 2
    if x.dim() == dims + 1:  # one image without a batch
        y = _convolve(named | {"input": x.unsqueeze(0)}, same)
        return None if y is None else y.squeeze(0)
    kernel = tuple(weight.shape[2:])
    dilation = _each(named.get("dilation", 1), dims)
    how = Window(
        kernel, _each(named.get("stride", 1), dims), _padding(named.get("padding", 0), kernel, dilation),
        dilation, int(named.get("groups", 1)),
    )  # fmt: skip
    tiled = weight.tiled
    return _through(
        x, weight, bias, lambda value, row: convolve(value, tiled, how, row),
        lambda x, w, b=None: same(x, w, b), 1,
    )  # fmt: skip


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return ((0, 0),) * len(kernel)
    if value == "same":  # torch puts what is odd at the end
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in _each(value, len(kernel)))


# torch hands the whole of attention to a tensor of another class: with this name replaced, its products come singly.
attention_by_products = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


def _attention(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return attention_by_products(*args, **kwargs)


_ATEN = torch.ops.aten
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
STEP_BY_STEP: dict[Any, Callable[..., Any]] = {
    **{getattr(torch, kind): partial(_recurrent_layers, kind) for kind in _RECURRENT},
    **{
        getattr(getattr(_ATEN, kind), form): partial(_recurrent_layers, kind)
        for kind in _RECURRENT
        for form in ("input", "data")
    },
    **{getattr(torch, f"{kind}_cell"): partial(_recurrent_cell, kind) for kind in _RECURRENT},
    **{getattr(_ATEN, f"{kind}_cell").default: partial(_recurrent_cell, kind) for kind in _RECURRENT},
}
"""Recurrent operators, with a function (operator, args, kwargs) that computes the same with a `linear` for each product
of each step; it gives None where it does not know the arguments."""

_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.multi_head_attention_forward: _attention,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), _matmul),
    **dict.fromkeys((Tensor.__rmatmul__, torch.bmm, Tensor.bmm, torch.mv, Tensor.mv), _matmul),
    **dict.fromkeys((_ATEN.matmul.default, _ATEN.mm.default, _ATEN.bmm.default, _ATEN.mv.default), _matmul),
    **dict.fromkeys((torch.addmm, Tensor.addmm, _ATEN.addmm.default), _addmm),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm, _ATEN.baddbmm.default), _addmm),
    _ATEN.linear.default: _linear,
    **dict.fromkeys((torch.einsum, _ATEN.einsum.default), _einsum),
    **dict.fromkeys((torch.tensordot, _ATEN.tensordot.default), _tensordot),
    **dict.fromkeys((F.bilinear, torch.bilinear, _ATEN.bilinear.default), _bilinear),
    **dict.fromkeys((torch._grouped_mm, _ATEN._grouped_mm.default), _grouped_mm),
    _ATEN.convolution.default: _general_convolution,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d), _convolution),
    **{
        getattr(getattr(_ATEN, f"conv{d}d"), kind): _convolution
        for d in (1, 2, 3)
        for kind in ("default", "padding")
    },
    **dict.fromkeys(
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d, *_SPREADING.values()),
        _transposed_convolution,
    ),
    _ATEN.conv_transpose1d.default: _transposed_convolution,
    _ATEN.conv_transpose2d.input: _transposed_convolution,
    _ATEN.conv_transpose3d.input: _transposed_convolution,
    **STEP_BY_STEP,
}
"""Operators that go through the array, by what calls them."""

_NAMED = {
    "transformers.grouped_mm_fallback.default": _grouped_mm,
    "transformers.grouped_mm_fallback": _grouped_mm,
}
"""The same for operators that other libraries define, by their names."""
