"""Finding crossbar matrices in an exported graph, where layers have become calls of torch operators.

A parameter is a matrix when an operator that is a matrix product takes it, directly or through a chain of
transpositions and the like. What holds it is a bare module named after the layer, so slots attach to it as
to a layer.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossbar_sim.nn.folding import Fold
from crossbar_sim.nn.matrices import Layout, Matrix

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
_PRODUCTS = {"aten.mm.default": 0, "aten.matmul.default": 0, "aten.bmm.default": 0}
_ADDED = {"aten.addmm.default": 1, "aten.baddbmm.default": 1}
"""Products, and the place of their left operand."""
NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_SAME = ("aten.detach.default", "aten.alias.default", "aten.contiguous.default", "aten.clone.default")
_VIEWS = (
    "aten.t.default", "aten.transpose.int", "aten.permute.default", "aten.numpy_T.default", "aten.mT.default",
    "aten.swapaxes.default", "aten.expand.default",
    "aten.view.default", "aten.unsqueeze.default", "aten.split_with_sizes.default", "aten.split.Tensor",
    "aten.chunk.default", "aten.slice.Tensor", "<built-in function getitem>",
)  # fmt: skip
_FAR = 1 << 40
"""Distance of a parameter's rows in `_stand_in`: tells the two dimensions apart whatever their sizes."""


UNUSED = "unused in the graph: on no array"


@dataclass(frozen=True)
class Use:
    """A parameter at an operator: what the operator is, the matrix it makes of it, or why it makes none."""

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
    """What every parameter of the graph is used for, by its full name.

    Args:
        model: a module with a `graph` of operators.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    fed: set[fx.Node] = set()
    stored: set[fx.Node] = set()  # made of parameters alone
    for node in model.graph.nodes:  # in the order of execution
        if node.op == "placeholder" or any(before in fed for before in node.all_input_nodes):
            fed.add(node)
        elif str(node.target) in shapes or any(before in stored for before in node.all_input_nodes):
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
    """Of several uses of one parameter the one that counts has the least: products first."""
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
    """A tensor without memory of that shape, whose strides show later which dimension is which."""
    strides = [_FAR * (i + 1) for i in range(len(shape) - 2, -1, -1)] + [1]
    return torch.empty_strided(shape, strides[-len(shape) :] if shape else (), device="meta")


def _turned(value: Any) -> bool | None:
    """Whether the parameter's last two dimensions have changed places; None if they are not the last two."""
    if not isinstance(value, Tensor) or value.dim() < 2:
        return None
    far, near = value.stride()[-2:]
    return {(_FAR, 1): False, (1, _FAR): True}.get((far, near))


def _uses_of(
    name: str, node: fx.Node, value: Any, shapes: dict[str, tuple[int, ...]], stored: set[fx.Node]
) -> Iterator[Use]:
    for user in node.users:
        op = str(user.target)
        if op in _SAME:
            yield from _uses_of(name, user, value, shapes, stored)
            continue
        shown = _view(user, node, value) if op in _VIEWS else None
        if isinstance(shown, list | tuple) or _turned(shown) is not None:
            yield from _uses_of(name, user, shown, shapes, stored)
        else:
            yield _use(name, shapes, node, user, op, value, stored)


def _view(user: fx.Node, node: fx.Node, value: Any) -> Any:
    """What the viewing operator `user` makes of the stand-in; sizes known only at run time count as 1."""
    if not callable(user.target) or user.args[0] is not node:
        return None
    arguments = fx.node.map_arg(user.args, lambda n: value if n is node else 1)
    try:
        return user.target(*arguments, **user.kwargs)
    except (RuntimeError, TypeError, IndexError):
        return None


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
    shape, turned = shapes[name], _turned(value)
    place = next((i for i, a in enumerate(arguments) if a is node), -1)
    bias = arguments[2] if len(arguments) > 2 else None
    whole = isinstance(value, Tensor) and value.shape == shape and turned is False
    short = op.removeprefix("aten.").split(".")[0]
    if op == "aten.linear.default" and place == 1 and len(shape) == 2 and turned is not None:
        return Use(
            name, "Linear", _matrix(name, bias, Layout(shape, "in_out" if turned else "out_in"), shapes)
        )
    if op in _CONV and place == 1 and whole:
        groups = int(arguments[6]) if len(arguments) > 6 else 1
        return Use(name, _CONV[op], _matrix(name, bias, Layout(shape, "out_in", groups), shapes))
    if op in _TRANSPOSED and place == 1 and whole:
        groups = int(arguments[6]) if len(arguments) > 6 else 1
        return Use(name, _TRANSPOSED[op], _matrix(name, None, Layout(shape, "transposed", groups), shapes))
    if op == "aten.convolution.default" and place == 1 and whole:
        back, dims, groups = bool(arguments[6]), len(shape) - 2, int(arguments[8])
        layout = Layout(shape, "transposed" if back else "out_in", groups)
        kind = f"Conv{'Transpose' if back else ''}{dims}d"
        return Use(name, kind, _matrix(name, None if back else bias, layout, shapes))
    first = _ADDED.get(op, _PRODUCTS.get(op))
    if first is not None and place in (first, first + 1) and turned is not None:
        left = place == first  # p @ x: the parameter's rows are the outputs
        if arguments[first + left] in stored:
            return Use(name, short, None, f"taken by {short}, but no operand of it is an input")
        if len(shape) == 2 or not (left or turned):
            added = arguments[0] if op in _ADDED and not left else None
            return Use(name, short, _matrix(name, added, _product(shape, turned != left), shapes))
    if place == 2 and op in ("aten.linear.default", "aten.convolution.default", *_CONV, *_TRANSPOSED):
        return Use(name, short, None, "a bias", bias=True)
    if op in _RECURRENT or op in _CELLS:
        own = list(arguments[2]) if op in _RECURRENT else arguments[2:]
        kind = _RECURRENT.get(op) or _CELLS[op]
        if node in own and len(shape) == 2 and whole:
            holder, _, weight = name.rpartition(".")
            wanted = f"{holder}." * bool(holder) + weight.replace("weight", "bias", 1)
            bias = next((b for b in own if isinstance(b, fx.Node) and str(b.target) == wanted), None)
            return Use(name, kind, _matrix(name, bias, Layout(shape, "out_in"), shapes))
        if node in own:
            return Use(name, kind, None, "a bias")
    if any(norm in short for norm in NORMS):
        return Use(name, short, None, "an affine normalisation", normalisation=True)
    if op == "aten.embedding.default":
        return Use(name, "embedding", None, "a table look-up, no product")
    if short == "einsum":
        return Use(name, short, None, "taken by einsum, which stays digital: write it as a matmul")
    return Use(name, short, None, f"taken by {short}, no matrix product of an input with it")


def _product(shape: tuple[int, ...], turned: bool) -> Layout:
    """Of x @ p: (in, out), or (out, in) for a transposed one; leading dimensions are groups."""
    return Layout(shape, "out_in") if turned else Layout(shape, "in_out", math.prod(shape[:-2]))


def _matrix(name: str, bias: object, layout: Layout, shapes: dict[str, tuple[int, ...]]) -> Matrix:
    """With the bias, if that is a parameter of the same holder and has one value for each bit line."""
    holder, _, weight = name.rpartition(".")
    full = str(bias.target) if isinstance(bias, fx.Node) and bias.op == "get_attr" else ""
    joins = full.rpartition(".")[0] == holder and shapes.get(full) == (layout.groups * layout.cols,)
    return Matrix(weight, full.rpartition(".")[2] if joins else None, layout)


def fold_graph(model: fx.GraphModule, wanted: Callable[[str], bool]) -> dict[str, tuple[str, Fold]]:
    """Take every batch normalisation that alone follows a convolution or linear node out of the graph.

    Args:
        model: the graph, changed in place.
        wanted: whether to fold into the layer of that name; the others keep their normalisation.

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
        if names is None or names[0] in folded or not wanted(names[0]):
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
    """Layer and norm, if every operand is called as in a module, and the layer's are used here alone."""
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
