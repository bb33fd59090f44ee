"""Where dropout belongs in a model that has none: found by following its data (docs/networks.md has the rules).

A forward that torch.fx can trace is a graph of layers, an exported model is a graph of operators; both are read by
the same rules. Of a forward that cannot be traced only the order in which its layers were registered is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from crossbar_sim.nn.graph import NORMS, is_graph
from crossbar_sim.nn.matrices import NORMALISATION, RULES

OWN = nn.modules.dropout._DropoutNd
"""The class of a model's own dropout layers, of every kind."""

_WEIGHTED = tuple(RULES)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink,
    nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
_ACTIVATION_NAMES = {c.__name__.lower() for c in _ACTIVATIONS} | {"leaky_relu", "log_sigmoid"}
_PRODUCTS = (
    "linear", "addmm", "mm", "bmm", "matmul", "convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "lstm", "gru", "rnn_tanh", "rnn_relu",
)  # fmt: skip
_MIXING = ("matmul", "bmm", "baddbmm", "einsum")
_ATTENDING = ("softmax", "scaled_dot_product_attention")
_SEQUENCES = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@dataclass(frozen=True)
class Place:
    """After which layer a site is, and what it drops.

    Args:
        layer: the name of the layer with weights.
        after: the name of the module, or of an exported graph's node, whose output is dropped.
        dims: of an image that is dropped channel by channel; 0: value by value.
    """

    layer: str
    after: str
    dims: int


def places(model: nn.Module) -> list[Place]:
    """Every place for dropout after a layer with weights, in the order of computation; none after the last layers."""
    if isinstance(model, fx.GraphModule) and is_graph(model):
        return _Exported(model.graph, model).places()
    try:
        graph = _Tracer().trace(model)
    except Exception:  # of the user's own code, on values that are none
        return list(_registered(model))
    return _Flow(graph, model).places()


class _Tracer(fx.Tracer):
    """Enters the user's own blocks, but not subclasses of the layers that the rules know."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = (*_WEIGHTED, *NORMALISATION, *_ACTIVATIONS, OWN)
        return isinstance(m, known) or super().is_leaf_module(m, module_qualified_name)


class _Flow:
    """The rules on a traced graph, whose nodes call layers."""

    def __init__(self, graph: fx.Graph, model: nn.Module) -> None:
        self.nodes = list(graph.nodes)
        self.modules = dict(model.named_modules())
        self.calls: dict[str, int] = {}
        self.above: dict[fx.Node, set[fx.Node]] = {}  # the node itself and all that it depends on
        self.fed: set[fx.Node] = set()
        for node in self.nodes:
            if node.op == "call_module":
                self.calls[str(node.target)] = self.calls.get(str(node.target), 0) + 1
            self.above[node] = {node}.union(*(self.above[before] for before in node.all_input_nodes))
            if node.op == "placeholder" or any(before in self.fed for before in node.all_input_nodes):
                self.fed.add(node)
        self.layers = [node for node in self.nodes if self.layer(node) is not None]

    def places(self) -> list[Place]:
        followed: set[fx.Node] = set()
        for node in self.layers:
            followed |= self.above[node] - {node}
        shortcuts = self.shortcuts()
        found: dict[str, Place] = {}
        for node in self.layers:
            dims = self.dims(node)
            layer, end = self.layer(node), self.end(node)
            if layer is None or dims is None or node not in followed or node in shortcuts:
                continue
            if not self.attends(node) and not any(self.drops(user) for user in end.users):
                # a layer that is called several times has one site, which acts at every call
                found.setdefault(layer, Place(layer, self.name(end), dims))
        return list(found.values())

    def attends(self, node: fx.Node) -> bool:
        """Whether the layer gives queries, keys or values: its outputs meet other outputs in a product."""
        seen, waiting = {node}, [node]
        while waiting:
            for user in waiting.pop().users:
                if user in seen or user in self.layers:
                    continue
                mixed = sum(before in self.fed for before in user.all_input_nodes) > 1
                short = self.short(user)
                if short in _ATTENDING or (short in _MIXING and mixed):
                    return True
                seen.add(user)
                waiting.append(user)
        return False

    def shortcuts(self) -> set[fx.Node]:
        """Layers on the shorter way to a sum of two ways from one node: a residual block's projections."""
        found: set[fx.Node] = set()
        for node in self.nodes:
            terms = [before for before in node.all_input_nodes if before in self.fed]
            if self.short(node) not in ("add", "iadd", "add_") or len(terms) != 2:
                continue
            both = self.above[terms[0]] & self.above[terms[1]]
            if not any(before in self.fed for before in both):
                continue
            shorter, longer = sorted(
                ([n for n in self.layers if n in self.above[term] - both] for term in terms), key=len
            )
            if len(shorter) < len(longer):
                found |= set(shorter)
        return found

    def end(self, node: fx.Node) -> fx.Node:
        """The layer's node, or the last of the normalisation and the activation that alone follow it."""
        while len(node.users) == 1:
            (user,) = node.users
            if user.all_input_nodes[:1] != [node] or not self.holds(user):
                break
            if self.activates(user):
                return user
            if not self.normalises(user):
                break
            node = user
        return node

    def short(self, node: fx.Node) -> str:
        """The name of a function or operator without its overload, of a module its class's in small letters."""
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__.lower()
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return str(name).split(".")[0]

    def layer(self, node: fx.Node) -> str | None:
        """The name of the layer that the node computes, if that has weights."""
        if node.op != "call_module":
            return None
        inner = self.modules[str(node.target)].modules()
        return str(node.target) if any(isinstance(module, _WEIGHTED) for module in inner) else None

    def dims(self, node: fx.Node) -> int | None:
        return _dims(self.modules[str(node.target)])

    def name(self, node: fx.Node) -> str:
        return str(node.target)

    def holds(self, node: fx.Node) -> bool:
        """Whether a site can be at the node: a hook on a module that is called several times would act too often."""
        return node.op == "call_module" and self.calls[str(node.target)] == 1

    def drops(self, node: fx.Node) -> bool:
        """Whether the node is a dropout layer of the model's own."""
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], OWN)

    def activates(self, node: fx.Node) -> bool:
        return isinstance(self.modules[str(node.target)], _ACTIVATIONS)

    def normalises(self, node: fx.Node) -> bool:
        return isinstance(self.modules[str(node.target)], NORMALISATION)


class _Exported(_Flow):
    """The rules on an exported graph, whose nodes call operators."""

    def layer(self, node: fx.Node) -> str | None:
        if node not in self.fed or self.short(node) not in _PRODUCTS:
            return None
        stored = [before for before in node.all_input_nodes if before not in self.fed]
        sources = [str(n.target) for before in stored for n in self.above[before] if n.op == "get_attr"]
        if not stored or not sources:
            return None
        holder = sorted(sources)[-1]  # of a bias and a weight the weight
        return holder.rpartition(".")[0] or holder

    def dims(self, node: fx.Node) -> int | None:
        short = self.short(node)
        if short == "convolution":
            return len(node.args[3])  # type: ignore[arg-type]  # its strides
        return int(short[-2]) if short.startswith("conv") else 0

    def name(self, node: fx.Node) -> str:
        return node.name

    def end(self, node: fx.Node) -> fx.Node:
        if self.short(node) in _SEQUENCES:  # (outputs, states ...)
            return next((u for u in node.users if self.short(u) == "getitem" and u.args[1] == 0), node)
        return super().end(node)

    def holds(self, node: fx.Node) -> bool:
        return True

    def activates(self, node: fx.Node) -> bool:
        return self.short(node).rstrip("_") in _ACTIVATION_NAMES

    def normalises(self, node: fx.Node) -> bool:
        short = self.short(node)
        # the decomposed operator returns a tuple: the site stays before it
        return any(norm in short for norm in NORMS) and "legit" not in short


def _dims(module: nn.Module) -> int | None:
    """See `Place.dims`; None: no place for a site."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return len(module.kernel_size)
    if isinstance(module, nn.Linear | nn.MultiheadAttention | nn.RNNBase):
        return 0
    return None  # the output of a recurrent cell is its memory


def _registered(model: nn.Module) -> Iterator[Place]:
    """The places in a model that cannot be traced: after all its layers but the one that was registered last."""
    inside = {
        id(part)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for part in module.modules()
        if part is not module  # its projection is never called as a layer
    }
    modules = dict(model.named_modules())
    layers = [n for n, m in modules.items() if isinstance(m, _WEIGHTED) and id(m) not in inside]
    for name in layers[:-1]:
        dims = _dims(modules[name])
        if dims is not None:
            yield Place(name, _end_in_sequence(modules, name), dims)


def _end_in_sequence(modules: dict[str, nn.Module], name: str) -> str:
    """As `_Flow.end`, where the layer stands in an nn.Sequential."""
    parent, _, own = name.rpartition(".")
    if not isinstance(modules[parent], nn.Sequential):
        return name
    names = list(modules[parent]._modules)
    for following in names[names.index(own) + 1 :]:
        full = f"{parent}.{following}" if parent else following
        module = modules.get(full)  # a shared one is known by its first name only
        if isinstance(module, _ACTIVATIONS):
            return full
        if not isinstance(module, NORMALISATION):
            break
        name = full
    return name
