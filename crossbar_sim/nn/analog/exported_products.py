"""Finding crossbar matrices in an exported graph, where layers have become calls of torch operators.

A parameter is a matrix when an operator that is a matrix product takes it, directly or through a chain of
transpositions and the like. What holds it is a bare module named after the layer, so slots attach to it as
to a layer.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossbar_sim.nn.analog.einsum import Equation, Index, Roles, of_tensordot, steps
from crossbar_sim.nn.analog.matrices import Fold, Layout, Matrix

_CONV = {f"aten.conv{d}d.{v}": f"Conv{d}d" for d in "123" for v in ("default", "padding")}
_TRANSPOSED = {"aten.conv_transpose1d.default": "ConvTranspose1d"} | {
    f"aten.conv_transpose{d}d.input": f"ConvTranspose{d}d" for d in "23"
}
_RECURRENT = {
    "aten.lstm.input": "LSTM",
    "aten.gru.input": "GRU",
    "aten.rnn_tanh.input": "RNN",
    "aten.rnn_relu.input": "RNN",
}
_CELLS = {
    f"aten.{cell}.default": name
    for cell, name in (
        ("lstm_cell", "LSTMCell"), ("gru_cell", "GRUCell"), ("rnn_tanh_cell", "RNNCell"),
        ("rnn_relu_cell", "RNNCell"),
    )
}  # fmt: skip
_PRODUCTS = {"aten.mm.default": 0, "aten.matmul.default": 0, "aten.bmm.default": 0, "aten.mv.default": 0}
GROUPED = ("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")
"""Rows of the input, in groups, each with a matrix of its own: experts."""
_PRODUCTS |= dict.fromkeys(GROUPED, 0)
_ADDED = {"aten.addmm.default": 1, "aten.baddbmm.default": 1}
"""Products, and the place of their left operand."""
_BILINEAR = {"aten.bilinear.default": 2, "aten._trilinear.default": 1}
"""Products of two inputs with a parameter, and its place: a matrix for each output."""
EINSUM, TENSORDOT = "aten.einsum.default", "aten.tensordot.default"
NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_SAME = (
    "aten.detach.default",
    "aten.detach_.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.clone.default",
    "aten.lift_fresh_copy.default",
)
_CASTS = (
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten.to.other",
    "aten._to_copy.default",
    "aten.type_as.default",
    "prims.convert_element_type.default",
)
_VIEWS = (
    "aten.t.default", "aten.transpose.int", "aten.permute.default", "aten.numpy_T.default", "aten.mT.default",
    "aten.swapaxes.default", "aten.swapdims.default", "aten.movedim.int", "aten.movedim.intlist",
    "aten.moveaxis.int", "aten.moveaxis.intlist", "aten.adjoint.default", "aten.mH.default",
    "aten.matrix_H.default", "aten.expand.default", "aten.view.default", "aten.reshape.default",
    "aten._unsafe_view.default", "aten.flatten.using_ints", "aten.ravel.default", "aten.unflatten.int",
    "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unsqueeze.default",
    "aten.atleast_2d.default", "aten.atleast_3d.default", "aten.split_with_sizes.default", "aten.split.Tensor",
    "aten.split.sizes", "aten.tensor_split.sections", "aten.chunk.default", "aten.unbind.int",
    "aten.slice.Tensor", "aten.narrow.default", "aten.select.int", "<built-in function getitem>",
)  # fmt: skip


UNUSED = "unused in the graph: on no array"


@dataclass(frozen=True)
class Use:
    """A parameter used by an operator: the operator, the matrix it is, or the reason why it is not one."""

    parameter: str
    kind: str
    matrix: Matrix | None
    reason: str = ""
    normalisation: bool = False
    bias: bool = False

    @property
    def unused(self) -> bool:
        """Whether no operator takes it."""
        return self.reason == UNUSED


def is_graph(model: nn.Module) -> bool:
    """Whether the model is an exported graph rather than layers with a forward of their own."""
    return isinstance(model, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes
    )


def is_unflattened(module: nn.Module) -> bool:
    """Whether the module is one of `torch.export.unflatten`: of no known class, with a graph as its forward."""
    return type(module).__module__ == "torch.export.unflatten" and hasattr(module, "graph")


def uses(model: Any) -> dict[str, Use]:
    """The use of every parameter of the graph, by its full name.

    Args:
        model: a module with a `graph` of operators.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    fed: set[fx.Node] = set()
    stored: set[fx.Node] = set()  # made of parameters, buffers and constants
    for node in model.graph.nodes:  # in the order of execution
        if node.op == "placeholder" or any(before in fed for before in node.all_input_nodes):
            fed.add(node)
        elif node.op == "get_attr" or any(before in stored for before in node.all_input_nodes):
            stored.add(node)
    found: dict[str, Use] = {}
    for node in model.graph.nodes:
        if node.op != "get_attr" or str(node.target) not in shapes:
            continue
        name = str(node.target)
        every = list(_uses_of(name, node, _stand_in(shapes[name]), shapes, stored))
        every.append(Use(name, "unused", None, UNUSED))
        if name in found:  # read at several places
            every.insert(0, found[name])
        found[name] = min(every, key=_rank)
    return found


def _rank(use: Use) -> int:
    """Priority among several uses of one parameter: the smallest rank wins, products first."""
    return use.matrix.layout.rank() if use.matrix else 9 if use.unused else 8


def constant_uses(model: fx.GraphModule) -> list[Use]:
    """The buffers and constants of the graph that a product with an input takes as its matrix."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    shapes: dict[str, tuple[int, ...]] = {}
    stored: set[fx.Node] = set()  # made of no input
    for node in model.graph.nodes:
        if node.op != "placeholder" and all(before in stored for before in node.all_input_nodes):
            stored.add(node)
        value = _attribute(model, str(node.target)) if node.op == "get_attr" else None
        if isinstance(value, Tensor) and str(node.target) not in parameters:
            shapes[str(node.target)] = tuple(value.shape)
    found: dict[str, Use] = {}
    for node in model.graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and name in shapes:
            for use in _uses_of(name, node, _stand_in(shapes[name]), shapes, stored):
                if use.matrix:
                    found[name] = use
    return list(found.values())


def _attribute(model: nn.Module, name: str) -> Any:
    holder, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(holder), attribute, None)


def _stand_in(shape: tuple[int, ...]) -> Tensor:
    """A tensor without memory of that shape; the strides of its views show which values these take."""
    return torch.empty(shape, device="meta")


def _product(value: Any, shape: tuple[int, ...], out: int, into: int) -> Layout | None:
    """How a parameter is the matrix of a product that takes it as `value`; None if it is none.

    Args:
        value: the stand-in as the product takes it, a part of it perhaps.
        shape: the parameter's own.
        out, into: the dimensions of `value` for the outputs and the inputs.
    """
    if not isinstance(value, Tensor) or value.dim() < 2:
        return None
    if value.dtype == torch.int64:
        return _spread_product(value, shape, (out,), (into,))
    outs, ins = (value.shape[out], value.stride(out)), (value.shape[into], value.stride(into))
    return _beside(shape, ins, outs)


def _beside(shape: tuple[int, ...], ins: tuple[int, int], outs: tuple[int, int]) -> Layout | None:
    """The matrix whose inputs and outputs are so many values, each so far from the next in the parameter's memory."""
    # Where the inputs (or the outputs) lie side by side in memory, the other stride is the length of a line.
    sides = [("out_in", ins, outs), ("in_out", outs, ins)]
    for strict in (True, False):
        for order, (near, step), (across, line) in sides:
            beside = step == 1 and near > 1 if strict else near == 1
            if beside and line >= near and math.prod(shape) % line == 0:
                return _lines(shape, line, across, order)
    return None


def _spread_product(
    value: Tensor, shape: tuple[int, ...], out: Sequence[int], into: Sequence[int]
) -> Layout | None:
    """As `_product` where several dimensions are the outputs or the inputs, or `value` holds addresses (integers).

    Values that lie at equal distances in memory are one matrix; the others are more matrices of the same size.
    """
    out, into = (tuple(d % value.dim() for d in dims) for dims in (out, into))
    if value.numel() < 2:
        return None
    rows, cols = (_places(value, dims) for dims in (into, out))
    if value.dtype == torch.int64:
        turned = value.permute(*(d for d in range(value.dim()) if d not in (*into, *out)), *into, *out)
        cells = turned.reshape(-1, len(rows), len(cols))[0]
        if not torch.equal(rows[:, None] + cols + cells[0, 0], cells):
            return None
    ins, outs = _distance(rows), _distance(cols)
    if ins is None or outs is None or (ins[0] == 1 and outs[0] == 1):
        return None
    (k, row), (m, col) = ins, outs
    return _beside(shape, (k, row or m * col), (m, col or 1))


def _places(value: Tensor, dims: Sequence[int]) -> Tensor:
    """Where values lie along some dimensions of a view or of addresses, from the first one on."""
    if value.dtype == torch.int64:
        others = [d for d in range(value.dim()) if d not in dims]
        along = (
            value.permute(*others, *dims).flatten(end_dim=len(others) - 1)[0]
            if others
            else value.permute(*dims)
        )
        return along.reshape(-1) - along.reshape(-1)[0]
    found = torch.zeros(1, dtype=torch.int64)
    for d in dims:
        found = (found[:, None] + torch.arange(value.shape[d]) * value.stride(d)).reshape(-1)
    return found


def addresses(value: Tensor) -> Tensor:
    """Where the values of a view lie in its parameter's memory; addresses as they are."""
    if not value.numel() or value.dtype == torch.int64:
        return value if value.dtype == torch.int64 else torch.empty(value.shape, dtype=torch.int64)
    last = value.storage_offset() + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    return torch.arange(last + 1).as_strided(value.shape, value.stride(), value.storage_offset())


def _distance(places: Tensor) -> tuple[int, int] | None:
    """(n, d): so many of the first places are at equal distances d; (1, 0) if there is only one, None if two agree."""
    ordered = places.sort().values
    if len(ordered) < 2:
        return 1, 0
    if bool((ordered.diff() == 0).any()):
        return None
    step = int(ordered[1] - ordered[0])
    apart = ordered - ordered[0] != torch.arange(len(ordered)) * step
    return int(apart.nonzero()[0]) if bool(apart.any()) else len(ordered), step


def _lines(shape: tuple[int, ...], line: int, across: int, order: str) -> Layout:
    """A parameter read as `across` lines of so many values; dimensions before the last one of lines are groups."""
    cut = next((k for k in range(len(shape), -1, -1) if math.prod(shape[k:]) == line), 0)
    lead = [size for size in shape[:cut] if size != 1]
    lines = math.prod(shape) // line
    groups = math.prod(lead[:-1])
    if across > lines // groups:  # the product goes over several of them
        groups = 1
    if order == "out_in":
        read: tuple[int, ...] = (lines, line)
        return Layout(shape, "out_in") if shape == read else Layout(read, "out_in", groups, shape)
    read = (groups, lines // groups, line) if groups > 1 else (lines, line)
    if shape == read or (groups > 1 and shape[-2:] == read[-2:]):
        return Layout(shape, "in_out", groups)
    return Layout(read, "in_out", groups, shape)


def _kernels(value: Any, shape: tuple[int, ...], groups: int) -> Layout | None:
    """How a parameter is the matrix of a convolution that takes it as `value`, (outputs, inputs, *kernel)."""
    if not isinstance(value, Tensor) or value.dim() < 3 or value.dtype == torch.int64:
        return None
    line, held = math.prod(value.shape[1:]), math.prod(shape)
    if not value[:1].is_contiguous() or (len(value) > 1 and value.stride(0) != line) or not line:
        return None
    if value.numel() == held:
        own = tuple(value.shape)
        return Layout(shape, "out_in", groups) if own == shape else Layout(own, "out_in", groups, shape)
    if held % line or (groups > 1 and (held % value.numel() or value.storage_offset() % value.numel())):
        return None
    whole = (held // line, *value.shape[1:])
    return Layout(whole, "out_in", groups * (held // value.numel()) if groups > 1 else 1, shape)


def product_at(
    op: str, place: int, arguments: Sequence[Any], value: Any, shape: tuple[int, ...]
) -> tuple[str, Layout, Any] | None:
    """How an operator multiplies an input with a parameter.

    Args:
        op: the operator, as "aten.linear.default".
        place: of the parameter in its arguments.
        arguments: of the operator; of them only what is no tensor is looked at.
        value: the parameter, or a stand-in with its strides, as the operator takes it.
        shape: the parameter's own.

    Returns:
        The kind of layer, the layout of the parameter as a matrix, and the argument that is added as the bias; None
        if it is not a matrix of a product.
    """
    bias = arguments[2] if len(arguments) > 2 else None
    whole = _as_stored(value, shape)
    if op == "aten.linear.default" and place == 1 and (layout := _product(value, shape, 0, 1)):
        return "Linear", layout, bias
    if op in _CONV and place == 1:
        groups = int(arguments[6]) if len(arguments) > 6 else 1
        if layout := _kernels(value, shape, groups):
            return _CONV[op], layout, bias
    if op in _TRANSPOSED and place == 1 and whole:
        groups = int(arguments[6]) if len(arguments) > 6 else 1
        return _TRANSPOSED[op], Layout(shape, "transposed", groups), None
    if op == "aten.convolution.default" and place == 1:
        back, groups = bool(arguments[6]), int(arguments[8])
        kernels = Layout(shape, "transposed", groups) if back and whole else None
        kernels = kernels if back else _kernels(value, shape, groups)
        if kernels:
            kind = f"Conv{'Transpose' if back else ''}{value.dim() - 2}d"
            return kind, kernels, None if back else bias
    if op in _BILINEAR and place == _BILINEAR[op] and whole and len(shape) == 3:
        return "Bilinear", Layout(shape, "in_out", shape[0]), None
    first = _ADDED.get(op, _PRODUCTS.get(op))
    if first is not None and place in (first, first + 1):
        left = place == first  # p @ x: the parameter's rows are the outputs
        if layout := _product(value, shape, *((-2, -1) if left else (-1, -2))):
            added = arguments[0] if op in _ADDED and not left else None
            return op.removeprefix("aten.").split(".")[0], layout, added
    return None


def einsum_at(
    text: str, place: int, fed: Sequence[bool], operands: Sequence[Any], value: Any, shape: tuple[int, ...]
) -> Layout | str:
    """How an einsum multiplies inputs with a parameter: its layout as a matrix, or why it is none.

    Args:
        text: the equation.
        place: of the parameter among the operands.
        fed: which of them depend on inputs.
        operands: tensors, or None where nothing is known of one.
        value, shape: see `product_at`.
    """
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else None for t in operands]
    equation = Equation.of(text, [None if s is None else len(s) for s in shapes])
    found = None if equation is None else steps(equation, fed, shapes)
    if equation is None or found is None:
        return "no operand of it is an input" if equation is not None else "its equation was not understood"
    roles = next(step.roles for step in found[1] if step.operand == place)
    if not isinstance(roles, Roles):
        return roles
    own = equation.terms[place]

    def dims(indices: tuple[Index, ...]) -> tuple[int, ...]:
        return tuple(own.index(i) for i in indices)

    layout = None
    if isinstance(value, Tensor) and value.dim() > 1:
        layout = _spread_product(value, shape, dims(roles.outputs), dims(roles.summed))
    return layout or "its values do not lie as a matrix's"


def factors_of(op: str) -> int | None:
    """The place of the left operand of a plain product such as matmul; None for other operators."""
    return _ADDED.get(op, _PRODUCTS.get(op))


def _as_stored(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether `value` is all of the parameter in its own shape."""
    same = isinstance(value, Tensor) and value.shape == shape and value.dtype != torch.int64
    return same and value.is_contiguous()


def _uses_of(
    name: str, node: fx.Node, value: Any, shapes: dict[str, tuple[int, ...]], stored: set[fx.Node]
) -> Iterator[Use]:
    for user in node.users:
        op = str(user.target)
        if op == "aten._assert_tensor_metadata.default":  # before a change of type; computes nothing
            continue
        if op in _SAME:
            yield from _uses_of(name, user, value, shapes, stored)
            continue
        if op in _CASTS and user.args[0] is node:
            kind = user.meta["val"].dtype if isinstance(user.meta.get("val"), Tensor) else None
            if kind in (torch.float32, torch.float64):
                yield from _uses_of(name, user, value, shapes, stored)
                continue
            if kind is not None and not isinstance(value, list | tuple):
                said = str(kind).removeprefix("torch.")
                why = f"its values are converted to {said} before they are used: export the model in float32"
                yield Use(name, "to", None, why)
                continue
        shown = _view(user, node, value) if op in _VIEWS else None
        if shown is not None:
            yield from _uses_of(name, user, shown, shapes, stored)
        else:
            yield _use(name, shapes, node, user, op, value, stored)


def _view(user: fx.Node, node: fx.Node, value: Any) -> Any:
    """What the viewing operator `user` makes of the stand-in; sizes known only at run time count as 1."""
    if not callable(user.target) or user.args[0] is not node:
        return None
    arguments = fx.node.map_arg(user.args, lambda n: value if n is node else 1)
    try:
        shown = user.target(*arguments, **fx.node.map_arg(user.kwargs, lambda _: 1))
    except RuntimeError:
        if str(user.target) not in _UNCOPIED or value.numel() > MOST_ADDRESSES:
            return None
        size: Any = arguments[1]
        return addresses(value).reshape(size)  # of a copy that was made before
    except (TypeError, IndexError):
        return None
    both = isinstance(shown, Tensor) and isinstance(value, Tensor)
    if both and shown.dtype != torch.int64 and not _one_memory(shown, value):
        # a reshape that has to copy puts the values in another order
        return None if value.numel() > MOST_ADDRESSES else _view(user, node, addresses(value))
    return shown


MOST_ADDRESSES = 1 << 27
"""Values of a parameter that are followed one by one: 1 GB of addresses."""


_UNCOPIED = ("aten.view.default", "aten._unsafe_view.default")
"""Views that cannot copy."""


def _one_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _use(
    name: str,
    shapes: dict[str, tuple[int, ...]],
    node: fx.Node,
    user: fx.Node,
    op: str,
    value: Any,
    stored: set[fx.Node],
) -> Use:
    arguments: list[Any] = list(user.args)
    shape = shapes[name]
    place = next((i for i, a in enumerate(arguments) if a is node), -1)
    whole = _as_stored(value, shape)
    short = op.removeprefix("aten.").split(".")[0]
    first = factors_of(op)
    if first is not None and place in (first, first + 1) and arguments[2 * first + 1 - place] in stored:
        return Use(name, short, None, f"taken by {short}, but no operand of it is an input")
    found = product_at(op, place, arguments, value, shape)
    if found is not None:
        kind, layout, bias = found
        return Use(name, kind, _matrix(name, bias, layout, shapes, value))
    if place == 2 and op in ("aten.linear.default", "aten.convolution.default", *_CONV, *_TRANSPOSED):
        return Use(name, short, None, "a bias", bias=True)
    if op in _RECURRENT or op in _CELLS:
        own = list(arguments[2]) if op in _RECURRENT else arguments[2:]
        kind = _RECURRENT.get(op) or _CELLS[op]
        if node in own and len(shape) == 2 and whole:
            holder, _, weight = name.rpartition(".")
            wanted = f"{holder}." * bool(holder) + weight.replace("weight", "bias", 1)
            bias = next((b for b in own if isinstance(b, fx.Node) and str(b.target) == wanted), None)
            return Use(name, kind, _matrix(name, bias, Layout(shape, "out_in"), shapes, value))
        if node in own:
            return Use(name, kind, None, "a bias")
    if any(norm in short for norm in NORMS):
        return Use(name, short, None, "an affine normalisation", normalisation=True)
    if "embedding" in short and place == 0:
        return Use(name, short, None, "a table look-up, no product")
    if op in (EINSUM, TENSORDOT):
        return _use_of_einsum(name, shape, node, user, value, stored)
    if op in _VIEWS:
        why = f"its values are put in another order by {short} before they are used: store them in that order"
        return Use(name, short, None, why)
    return Use(name, short, None, f"taken by {short}, no matrix product of an input with it")


def _use_of_einsum(
    name: str, shape: tuple[int, ...], node: fx.Node, user: fx.Node, value: Any, stored: set[fx.Node]
) -> Use:
    arguments: Any = user.args
    nodes = list(arguments[:2] if str(user.target) == TENSORDOT else arguments[1])
    fed = [operand not in stored for operand in nodes]
    operands = [value if operand is node else _shown(operand) for operand in nodes]
    text = str(arguments[0])
    if str(user.target) == TENSORDOT:
        a, b = (t if isinstance(t, Tensor) else torch.empty(()) for t in operands)
        known = a.dim() and b.dim()
        text = of_tensordot((a.dim(), b.dim()), (arguments[2], arguments[3])) if known else ""
    found = einsum_at(text, nodes.index(node), fed, operands, value, shape)
    if isinstance(found, Layout):
        return Use(name, "einsum", _matrix(name, None, found, {}, value))
    return Use(name, "einsum", None, f"taken by einsum {text}, where it is not a matrix: {found}")


def _shown(operand: Any) -> Any:
    """What is known of the result of a node: a tensor of its shape, or None."""
    known = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    return known if isinstance(known, Tensor) else None


def _matrix(
    name: str, bias: object, layout: Layout, shapes: dict[str, tuple[int, ...]], value: Any
) -> Matrix:
    """With the bias, if that is a parameter of the same holder and has one value for each bit line."""
    holder, _, weight = name.rpartition(".")
    full, part = _parameter_of(bias, shapes) or ("", None)
    joins = full.rpartition(".")[0] == holder and joins_as_row(layout, value, part, shapes.get(full))
    in_parts = joins and isinstance(bias, fx.Node) and bias.op != "get_attr"
    return Matrix(weight, full.rpartition(".")[2] if joins else None, layout, in_parts)


def joins_as_row(layout: Layout, weight: Any, bias: Any, shape: tuple[int, ...] | None) -> bool:
    """Whether a bias has one value for each bit line that a product takes: of all of its matrix, or of a part of it.

    Args:
        layout: of the matrix.
        weight, bias: both as the product takes them: views, whose offsets say which part it is.
        shape: of the bias parameter.
    """
    if shape != (layout.groups * layout.cols,) or not isinstance(bias, Tensor) or bias.dim() != 1:
        return False
    if bias.shape == shape:
        return True
    if layout.groups > 1 or not isinstance(weight, Tensor) or weight.dtype == torch.int64 or not bias.numel():
        return False
    offset, rows, cols = int(weight.storage_offset()), layout.rows, layout.cols
    first = offset // rows if layout.order == "out_in" else offset % cols
    taken = weight.numel() // rows if weight.numel() % rows == 0 else 0
    return bias.stride(0) == 1 and first == bias.storage_offset() and taken == bias.numel()


def _parameter_of(node: object, shapes: dict[str, tuple[int, ...]]) -> tuple[str, Any] | None:
    """The parameter that a node is a view of, and a stand-in of that view."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        name = str(node.target)
        return (name, _stand_in(shapes[name])) if name in shapes else None
    op, before = str(node.target), node.args[0] if node.args else None
    found = _parameter_of(before, shapes) if op in _SAME or op in _VIEWS else None
    if found is None or op in _SAME:
        return found
    shown = _view(node, before, found[1])  # type: ignore[arg-type]
    return None if shown is None else (found[0], shown)


def fold_graph(model: fx.GraphModule, wanted: Callable[[str, str], bool]) -> dict[str, tuple[str, Fold]]:
    """Remove every batch normalisation that is the only user of a convolution or linear node from the graph.

    Args:
        model: the graph, changed in place.
        wanted: whether to fold into the layer of the first name the norm of the second; other norms are kept.

    Returns:
        {name of the layer: (name of the norm, its fold)}. The node before gets a bias to read, which the
        slot of the layer must provide.
    """
    folded: dict[str, tuple[str, Fold]] = {}
    for node in list(model.graph.nodes):
        results = _normalised(node)
        before = node.args[0] if results else None
        if not isinstance(before, fx.Node) or len(before.users) != 1 or not _carries(before):
            continue
        names = _foldable(model, before, node)
        if names is None or names[0] in folded or not wanted(*names):
            continue
        layer, norm = names
        if len(before.args) < 3 or before.args[2] is None:
            with model.graph.inserting_before(before):
                read = model.graph.create_node("get_attr", f"{layer}.bias")
            before.args = (*before.args[:2], read, *before.args[3:])
        for result in results:
            result.replace_all_uses_with(before)
            model.graph.erase_node(result)
        if node not in results:
            model.graph.erase_node(node)
        eps: Any = node.args[7] if len(node.args) > 7 else node.args[6]
        folded[layer] = (norm, Fold(model.get_submodule(norm), float(eps)))
    return folded


def read_late(model: fx.GraphModule) -> None:
    """Read every parameter just before its first use, in place: torch exports read them all at the start.

    So a weight that is programmed for each use is there while it is used, and not for the whole forward.
    """
    order = {node: place for place, node in enumerate(model.graph.nodes)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for node in list(model.graph.nodes):
        if node.op == "get_attr" and node.target in parameters and node.users:
            min(node.users, key=lambda user: order[user]).prepend(node)
    model.recompile()


def _normalised(node: fx.Node) -> list[fx.Node]:
    """The results of a batch normalisation by running statistics; none for any other node."""
    if str(node.target) == "aten.batch_norm.default" and not node.args[5]:
        return [node]
    if str(node.target) == "aten._native_batch_norm_legit_no_training.default":
        results = list(node.users)
        if all(user.op == "call_function" and user.args[1:] == (0,) for user in results):
            return results
    return []


def _carries(node: fx.Node) -> bool:
    op = str(node.target)
    forward = op == "aten.convolution.default" and not node.args[6]
    weight = node.args[1] if len(node.args) > 1 else None
    return (forward or op in ("aten.linear.default", *_CONV)) and isinstance(weight, fx.Node)


def _foldable(model: fx.GraphModule, before: fx.Node, node: fx.Node) -> tuple[str, str] | None:
    """Layer and norm, if every operand is passed as in a module and the layer's parameters have no other use."""
    tensors = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    layer, norm = (str(getattr(n, "target", "")).rpartition(".")[0] for n in (before.args[1], node.args[3]))
    own = list(zip((*before.args[1:3], None)[:2], ("weight", "bias"), strict=True))
    others = zip(node.args[1:5], ("weight", "bias", "running_mean", "running_var"), strict=True)
    wanted = [(n, f"{layer}.{name}") for n, name in own] + [(n, f"{norm}.{name}") for n, name in others]
    for operand, name in wanted:
        if operand is None and name in tensors:
            return None
        if operand is not None and not (_gets(operand, name) and name in tensors):
            return None
    # On more dimensions than the weight has, a normalisation acts on others than a Linear's outputs.
    value = before.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() != model.get_parameter(f"{layer}.weight").dim():
        return None
    alone = all(n is None or len(n.users) == 1 for n, _ in own)  # type: ignore[union-attr]
    return (layer, norm) if layer and norm and alone else None


def _gets(operand: object, name: str) -> bool:
    return isinstance(operand, fx.Node) and operand.op == "get_attr" and operand.target == name
