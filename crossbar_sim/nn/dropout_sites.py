"""Dropout sites of any model: its own dropout layers, or places found after its layers with weights.

`set_rates(model, 0.3)` is all that a method needs; a search asks `sites(model)` for their number. The rules are in
docs/networks.md. Nothing of the model's code or of its state_dict changes: a found site is a forward hook.

>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 2))
>>> [(site.name, site.kind, site.after) for site in sites(model)]
[('0', 'Dropout2d', '1'), ('3', 'Dropout', '4')]
>>> set_rates(model, (0.1, 0.4))
>>> rates(model)
{'0': 0.1, '3': 0.4}
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.copying import copy_graph
from crossbar_sim.nn.analog.exported_products import NORMS, is_graph
from crossbar_sim.nn.analog.matrices import NORMALISATION, RULES
from crossbar_sim.validate import is_rate

# Where dropout belongs in a model that has none: found by following its data (docs/networks.md has the rules).
#
# A forward that torch.fx can trace is a graph of layers, an exported model is a graph of operators; both are read by
# the same rules. Of a forward that cannot be traced only the order in which its layers were registered is known.


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
        """The layer's node, or the last of the normalisations and the activation after it, each the only user."""
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
        """The name of a function or operator without its overload; for a module, its class's name in lower case."""
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__.lower()
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return str(name).split(".")[0]

    def layer(self, node: fx.Node) -> str | None:
        """The name of the layer that the node calls, if that has weights."""
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
        """Whether the node is one of the model's own dropout layers."""
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


Rates = float | Iterable[float] | Mapping[str, float]
"""One rate for all sites, one for each in order, or by name or pattern ("layer1.*"; other sites are unchanged)."""

_KINDS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")


@dataclass(frozen=True)
class Site:
    """A place where values are dropped in training.

    Args:
        name: of the model's own dropout layer, or of the layer with weights that a found site follows.
        kind: Dropout, or Dropout2d and its like, which drop whole channels.
        after: the module whose output is dropped: the layer, or its activation; of an exported graph the node.
        own: whether it is a dropout layer of the model's own.
    """

    name: str
    kind: str
    after: str
    own: bool


def sites(model: nn.Module, everywhere: bool = False) -> tuple[Site, ...]:
    """The dropout sites of a model; it is not changed.

    Its own dropout layers where it has any, in the order of their registration; else those found after its layers
    with weights, in the order of computation. Found sites that have rates already count too.

    Args:
        model: any model, also an analog one.
        everywhere: the found sites in addition to its own.

    Raises:
        InputError: if there is none.
    """
    return tuple(site for site, _ in _find(model, everywhere))


def rates(model: nn.Module, everywhere: bool = False) -> dict[str, float]:
    """The rate of every site by name, in the order of `sites`; 0 where none was set.

    Raises:
        InputError: if there is no site.
    """
    return {site.name: _rate(holder) for site, holder in _find(model, everywhere)}


def set_rates(model: nn.Module, rates: Rates, everywhere: bool = False) -> None:
    """Set the rates of the model's sites, in place.

    Rates act in training mode only, and need no place in a checkpoint: the state_dict is the same. A copy or an analog
    copy of the model has rates of its own.

    Args:
        model: any model, also an analog one.
        rates: each in [0, 1).
        everywhere: as for `sites`.

    Raises:
        InputError: if there is no site, or the rates do not fit the sites or are out of range.
    """
    found = _find(model, everywhere)
    names = [site.name for site, _ in found]
    wanted = _wanted(rates, names)
    _attach(model, [holder for _, holder in found if isinstance(holder, _Hook)])
    for name, (_, holder) in zip(names, found, strict=True):
        if name not in wanted:
            continue
        if isinstance(holder, _Hook):
            holder.rate = wanted[name]
        else:
            holder.p = wanted[name]


def with_dropout(model: nn.Module, rates: Rates, everywhere: bool = False) -> nn.Module:
    """A copy of the model, parameters included, with these rates at its sites; arguments and errors of `set_rates`."""
    exported = isinstance(model, fx.GraphModule) and is_graph(model)
    copied = copy_graph(model, {}) if exported else copy.deepcopy(model)  # type: ignore[arg-type]
    set_rates(copied, rates, everywhere)
    return copied


def remove_found(model: nn.Module) -> None:
    """Take all found sites out of the model, in place; its own dropout layers are left unchanged.

    In evaluation mode a site does nothing; but a model without hooks may take faster routes.
    """
    for module in list(model.modules()):
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, _Hook):
                del module._forward_hooks[key]
    if isinstance(model, fx.GraphModule):
        inserted = [
            node for node in model.graph.nodes
            if node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), _Inserted)
        ]  # fmt: skip
        for node in inserted:
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
            delattr(model, str(node.target))
        if inserted:
            model.recompile()


class _Hook:
    """Drops a module's output in training mode: a forward hook, copied and pickled with its module.

    Args:
        index: of the site among those found.
        place: where it is.
    """

    def __init__(self, index: int, place: Place) -> None:
        self.index, self.place, self.rate = index, place, 0.0
        # Kept, because torch, when it unpickles a handle, takes its number out of use for other hooks.
        self.handle: Any = None

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """The output with values dropped; None, for the unchanged output, in evaluation mode or at rate 0."""
        if self.rate == 0 or not module.training:
            return None
        return self._drop(output)

    def _drop(self, output: Any) -> Any:
        if isinstance(output, Tensor):
            functions = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
            return functions[self.place.dims](output, self.rate)
        if isinstance(output, PackedSequence):
            return output._replace(data=self._drop(output.data))
        # recurrent layers and attention: (outputs, states or weights), of which the first goes on
        return (self._drop(output[0]), *output[1:])


class _Inserted(nn.Module):
    """A found site of an exported graph, where there is no module to hook."""

    def __init__(self, hook: _Hook) -> None:
        super().__init__()
        self.hook = hook

    def forward(self, x: Tensor) -> Tensor:
        """The values (...) with some dropped in training mode."""
        dropped = self.hook(self, (), x)
        return x if dropped is None else dropped


def _find(model: nn.Module, everywhere: bool) -> list[tuple[Site, Any]]:
    """Every site and the object that holds its rate: a dropout layer, or a hook, which may not be attached yet."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module takes no dropout: give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        raise InputError(f"dropout sites are those of a torch.nn.Module, not of a {type(model).__name__}")
    found: list[tuple[Site, Any]] = [
        (Site(name, type(module).__name__, name, True), module)
        for name, module in model.named_modules()
        if isinstance(module, OWN)
    ]
    hooks = _attached(model)
    if not hooks and (everywhere or not found):
        hooks = [(place, _Hook(i, place)) for i, place in enumerate(places(model))]
    found += [(Site(place.layer, _KINDS[place.dims], place.after, False), hook) for place, hook in hooks]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no dropout site: it has no layer with weights before its last one, "
            "and no dropout layer of its own; add an nn.Dropout where values may be dropped"
        )
    return found


def _attached(model: nn.Module) -> list[tuple[Place, _Hook]]:
    """The found sites that are in the model, each with its place."""
    hooks = []
    for name, module in model.named_modules():
        for hook in module._forward_hooks.values():
            if isinstance(hook, _Hook):
                hooks.append((_renamed(hook.place, name), hook))
        if isinstance(module, _Inserted):
            hooks.append((module.hook.place, module.hook))
    return sorted(hooks, key=lambda pair: pair[1].index)


def _renamed(place: Place, after: str) -> Place:
    """The place under its current name: the model may have become part of another one, or a part of it the model."""
    if after.endswith(f".{place.after}"):
        prefix = after.removesuffix(place.after)
        return Place(prefix + place.layer, after, place.dims)
    return Place(place.layer.removeprefix(place.after.removesuffix(after)), after, place.dims)


def _attach(model: nn.Module, hooks: list[_Hook]) -> None:
    """Put hooks that are not in the model yet where they belong."""
    fresh = [hook for hook in hooks if hook.handle is None]
    if not fresh:
        return
    if isinstance(model, fx.GraphModule) and is_graph(model):
        nodes = {node.name: node for node in model.graph.nodes}
        for hook in fresh:
            hook.handle = name = f"dropout_site_{hook.index}"
            model.add_submodule(name, _Inserted(hook).train(model.training))
            node = nodes[hook.place.after]
            users = list(node.users)
            with model.graph.inserting_after(node):
                inserted = model.graph.call_module(name, (node,))
            for user in users:
                user.replace_input_with(node, inserted)
        model.recompile()
        return
    for hook in fresh:
        hook.handle = model.get_submodule(hook.place.after).register_forward_hook(hook)


def _rate(holder: Any) -> float:
    return float(holder.rate if isinstance(holder, _Hook) else holder.p)


def _wanted(rates: Rates, names: list[str]) -> dict[str, float]:
    """The rate of each site for which one is given."""
    if isinstance(rates, Mapping):
        wanted: dict[str, Any] = {}
        for pattern, rate in rates.items():
            matching = [name for name in names if name == pattern or fnmatchcase(name, str(pattern))]
            if not matching:
                raise InputError(f"no dropout site is called {pattern!r}; sites: {', '.join(names)}")
            wanted |= dict.fromkeys(matching, rate)
    else:
        several = isinstance(rates, Iterable) and not isinstance(rates, str)
        given: list[Any] = list(rates) if several else [rates] * len(names)  # type: ignore[arg-type]
        if len(given) != len(names):
            raise InputError(
                f"{len(given)} dropout rates for {len(names)} sites ({', '.join(names[:8])}"
                f"{', ...' if len(names) > 8 else ''}): give one for all or one for each"
            )
        wanted = dict(zip(names, given, strict=True))
    for name, rate in wanted.items():
        if not is_rate(rate):
            raise InputError(f"dropout rate {rate!r} of site {name!r}: a number in [0, 1) is needed")
    return {name: float(rate) for name, rate in wanted.items()}
