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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from crossbar_sim.errors import InputError
from crossbar_sim.nn.copying import copy_graph
from crossbar_sim.nn.dropout_flow import OWN, Place, places
from crossbar_sim.nn.graph import is_graph

Rates = float | Iterable[float] | Mapping[str, float]
"""One rate for all sites, one for each in order, or by name or pattern ("layer1.*"; other sites stay as they are)."""

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
    """Take all found sites out of the model, in place; its own dropout layers stay as they are.

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
        """The output with values dropped; None, which means as it is, in evaluation mode or at rate 0."""
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
    """Every site with what holds its rate: a dropout layer, or a hook, which may not be attached yet."""
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
    """The place as it is called now that the model may have become a part of another, or a part of it the model."""
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
    """The rate of each site that gets one."""
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
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= float(rate) < 1:
            raise InputError(f"dropout rate {rate!r} of site {name!r}: a number in [0, 1) is needed")
    return {name: float(rate) for name, rate in wanted.items()}
