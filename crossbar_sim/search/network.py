"""The network at a point of the search space: dropout rates, width, training sigma."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from crossbar_sim.baselines.calibrated import calibrated
from crossbar_sim.baselines.method import Build, fresh
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn import dropout_sites
from crossbar_sim.rng import Key
from crossbar_sim.search.space import HIGH, LOW, Dimension, Space

SIGMA, WIDTH = "training sigma", "width"
"""Names of the dimensions that are no dropout rates."""


@dataclass(frozen=True, eq=False)
class SearchedNetwork:
    """A network with its dropout sites and its search space.

    Args:
        build: makes it; called with `width=...` where the width is searched.
        sites: names of its dropout sites.
        space: a dimension for each site, and the joint ones.
        calibrated: training examples, on which networks are changed for calibrated training; None: they are not.
    """

    build: Build
    sites: tuple[str, ...]
    space: Space
    calibrated: Batch | None = None

    @classmethod
    def of(
        cls,
        build: Build,
        key: Key,
        bounds: tuple[float, float],
        sigma: tuple[float, float] | None,
        width: tuple[float, float] | None,
        calibrated: Batch | None = None,
    ) -> "SearchedNetwork":
        """Find the dropout sites of the network that `build` makes.

        Raises:
            InputError: if it has none, or the bounds are no rates.
        """
        low, high = bounds
        if not LOW <= low < high < 1:
            raise InputError(f"rates={bounds!r}: dropout rates lie in 0 <= low < high < 1, e.g. (0, {HIGH})")
        point = {} if width is None else {WIDTH: (width[0] + width[1]) / 2}
        model = build_network(build, point, key, calibrated)
        sites = site_names(model)
        dimensions = [Dimension(name, low, high) for name in sites]
        if sigma is not None:
            dimensions.append(Dimension(SIGMA, *sigma))
        if width is not None:
            dimensions.append(Dimension(WIDTH, *width))
        return cls(build, sites, Space(tuple(dimensions)), calibrated)

    def make(self, point: Mapping[str, float], key: Key) -> nn.Module:
        """A fresh network at a point, its rates set."""
        model = build_network(self.build, point, key, self.calibrated)
        if site_names(model) != self.sites:
            raise InputError(
                f"the network has the dropout sites {', '.join(site_names(model))} at this point and "
                f"{', '.join(self.sites)} at another: the space must not change them"
            )
        self.set_rates(model, point)
        return model

    def set_rates(self, model: nn.Module, point: Mapping[str, float]) -> None:
        """Set the dropout rates of a point."""
        dropout_sites.set_rates(model, [point[name] for name in self.sites])

    def rates(self, point: Mapping[str, float]) -> dict[str, float]:
        """The dropout rates of a point by site."""
        return {name: point[name] for name in self.sites}


def build_network(
    build: Build, point: Mapping[str, float], key: Key, examples: Batch | None = None
) -> nn.Module:
    """The network that `build` makes, initialised by the key, with the point's width if it has one.

    With training examples it is changed for calibrated training.
    """
    anything: Any = build
    made = build if WIDTH not in point else lambda: anything(width=point[WIDTH])
    model = fresh(made, key, examples is not None)
    if examples is not None:
        calibrated(model, examples)
    return model


def site_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the model's dropout sites, in the order of its rates.

    Raises:
        InputError: if there is none.
    """
    names = tuple(str(getattr(site, "name", site)) for site in dropout_sites.sites(model))
    if not names:
        raise InputError("the network has no dropout site: there is no rate to search for")
    return names
