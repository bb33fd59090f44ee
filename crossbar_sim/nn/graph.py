"""Finding crossbar matrices in an exported graph, where layers have become calls of torch operators.

A parameter is a matrix when an operator that is a matrix product takes it, directly or through a chain of
transpositions. What holds it is a bare module named after the layer, so slots attach to it as to a layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

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
        ("lstm_cell", "LSTMCell"), ("gru_cell", "GRUCell"), ("rnn_tanh_cell", "RNNCell"), ("rnn_relu_cell", "RNNCell"),
    )
}  # fmt: skip
_PRODUCTS = {"aten.mm.default": 0, "aten.matmul.default": 0, "aten.bmm.default": 0}
_ADDED = {"aten.addmm.default": 1, "aten.baddbmm.default": 1}
NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_SAME = ("aten.detach.default", "aten.alias.default", "aten.contiguous.default", "aten.clone.default")
_TURN = ("aten.t.default", "aten.transpose.int", "aten.permute.default", "aten.numpy_T.default")


@dataclass(frozen=True)
class Use:
    """A parameter at an operator: what the operator is, the matrix it makes of it, or why it makes none."""

    parameter: str
    kind: str
    matrix: Matrix | None
    reason: str = ""
    normalisation: bool = False


def is_graph(model: nn.Module) -> bool:
    """Whether the model is an exported graph rather than layers with a forward of their own."""
    return isinstance(model, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes
    )


def uses(model: fx.GraphModule) -> dict[str, Use]:
    """What every parameter of the graph is used for, by its full name."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    found: dict[str, Use] = {}
    for node in model.graph.nodes:
        if node.op != "get_attr" or str(node.target) not in shapes:
            continue
        name = str(node.target)
        every = list(_uses_of(node, node, False, shapes))
        best = next((use for use in every if use.matrix), next(iter(every), Use(name, "unused", None, "unused")))
        if name not in found or (best.matrix and not found[name].matrix):
            found[name] = best
    return found


def _uses_of(origin: fx.Node, node: fx.Node, turned: bool, shapes: dict[str, tuple[int, ...]]) -> Iterator[Use]:
    name = str(origin.target)
    shape = shapes[name]
    for user in node.users:
        op = str(user.target)
        if op in _SAME:
            yield from _uses_of(origin, user, turned, shapes)
        elif op in _TURN and len(shape) == 2:
            yield from _uses_of(origin, user, not turned, shapes)
        else:
            yield _use(name, shape, node, user, op, turned)


def _use(name: str, shape: tuple[int, ...], node: fx.Node, user: fx.Node, op: str, turned: bool) -> Use:
    arguments = list(user.args)
    place = next((i for i, a in enumerate(arguments) if a is node), -1)
    bias = arguments[2] if len(arguments) > 2 else None
    if op == "aten.linear.default" and place == 1 and len(shape) == 2:
        return Use(name, "Linear", _matrix(name, bias, Layout(shape, "in_out" if turned else "out_in")))
    if op in _CONV and place == 1:
        groups = int(arguments[6]) if len(arguments) > 6 else 1  # type: ignore[arg-type]
        return Use(name, _CONV[op], _matrix(name, bias, Layout(shape, "out_in", groups)))
    if op in _TRANSPOSED and place == 1:
        groups = int(arguments[6]) if len(arguments) > 6 else 1  # type: ignore[arg-type]
        return Use(name, _TRANSPOSED[op], _matrix(name, None, Layout(shape, "transposed", groups)))
    if op == "aten.convolution.default" and place == 1:
        back, dims, groups = bool(arguments[6]), len(shape) - 2, int(arguments[8])  # type: ignore[arg-type]
        layout = Layout(shape, "transposed" if back else "out_in", groups)
        kind = f"Conv{'Transpose' if back else ''}{dims}d"
        return Use(name, kind, _matrix(name, None if back else bias, layout))
    if op in _ADDED and place == 2 and len(shape) >= 2:
        return Use(name, "addmm", _matrix(name, arguments[0], _product(shape, turned)))
    if op in _PRODUCTS and place in (0, 1) and len(shape) >= 2:
        first = place == 0  # p @ x: the parameter's rows are the outputs
        if not first or len(shape) == 2:
            return Use(name, "matmul", _matrix(name, None, _product(shape, turned != first)))
    if op in _RECURRENT or op in _CELLS:
        kind = _RECURRENT.get(op) or _CELLS[op]
        if len(shape) == 2 and not turned:
            return Use(name, kind, Matrix(name.rpartition(".")[2], None, Layout(shape, "out_in")))
        return Use(name, kind, None, "a bias")
    short = op.removeprefix("aten.").split(".")[0]
    if any(norm in short for norm in NORMS):
        return Use(name, short, None, "an affine normalisation", normalisation=True)
    if len(shape) >= 2 and op in ("aten.embedding.default",):
        return Use(name, "embedding", None, "a table look-up, no product")
    return Use(name, short, None, f"taken by {short}, no matrix product of an input with it")


def _product(shape: tuple[int, ...], turned: bool) -> Layout:
    """Of x @ p: (in, out), or (out, in) for a transposed one; leading dimensions are groups."""
    if turned:
        return Layout(shape, "out_in")
    groups = 1
    for n in shape[:-2]:
        groups *= n
    return Layout(shape, "in_out", groups)


def _matrix(name: str, bias: object, layout: Layout) -> Matrix:
    """With the bias as a parameter of the same holder, if that is what it is."""
    holder, _, weight = name.rpartition(".")
    full = str(bias.target) if isinstance(bias, fx.Node) and bias.op == "get_attr" else ""
    same = full.rpartition(".")[0] == holder and full != ""
    return Matrix(weight, full.rpartition(".")[2] if same else None, layout)


def fold_graph(model: fx.GraphModule) -> dict[str, tuple[str, Fold]]:
    """Take every batch normalisation that alone follows a convolution or linear node out of the graph.

    Returns:
        {name of the layer: (name of the norm, its fold)}. The node before gets a bias to read, which the
        slot of the layer must provide.
    """
    folded: dict[str, tuple[str, Fold]] = {}
    for node in list(model.graph.nodes):
        if "batch_norm" not in str(node.target) or node.op != "call_function":
            continue
        before, mean = node.args[0], node.args[3]
        carrier = str(getattr(before, "target", "")) in ("aten.linear.default", *_CONV)
        if not carrier or len(before.users) != 1 or not isinstance(mean, fx.Node) or mean.op != "get_attr":
            continue
        weight = before.args[1]
        if weight.op != "get_attr" or len(weight.users) != 1 or "norm_legit" in str(node.target):
            continue
        layer, norm = str(weight.target).rpartition(".")[0], str(mean.target).rpartition(".")[0]
        eps = node.args[7]
        if not layer or not norm or layer in folded or str(weight.target) != f"{layer}.weight":
            continue
        if len(before.args) < 3 or before.args[2] is None:
            with model.graph.inserting_before(before):
                read = model.graph.create_node("get_attr", f"{layer}.bias")
            before.args = (*before.args[:2], read, *before.args[3:])
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)
        folded[layer] = (norm, Fold(model.get_submodule(norm), float(eps)))
    return folded
