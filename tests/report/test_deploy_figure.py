"""The figure of `deploy` shows the deployment's numbers: read out of its artists, and compared."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.deployments import deployment, report
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection

from crossbar_sim.report import deploy_figure
from crossbar_sim.robustness.deploy import Deployment
from crossbar_sim.robustness.score import Score


def panels(found: Deployment) -> tuple[Axes, Axes]:
    """The axes of the scores and of the layers."""
    scores, layers = deploy_figure._figure(found, None).axes
    return scores, layers


def check_scores(ax: Axes, found: Deployment) -> None:
    (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(
        np.asarray(points.get_offsets())[:, 1], [100 * s.accuracy for s in found.scores]
    )
    (interval,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    (segment,) = interval.get_segments()
    assert found.main.ci95 is not None
    np.testing.assert_allclose(np.asarray(segment)[:, 1], [100 * bound for bound in found.main.ci95])
    heights = sorted(
        float(np.asarray(line.get_ydata())[0]) for line in ax.lines if len(line.get_xdata()) == 2
    )
    assert found.threshold is not None
    np.testing.assert_allclose(heights, sorted([100 * found.clean.accuracy, 100 * found.threshold]))
    (mean,) = [line for line in ax.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(np.asarray(mean.get_ydata(), float), [100 * found.main.mean])


def check_layers(ax: Axes, found: Deployment) -> None:
    drops = {r.layer.name: r.sensitivity.drop for r in found.layers if r.sensitivity}
    names = sorted(drops, key=lambda name: -drops[name].mean)
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [100 * drops[n].mean for n in names])
    ends = [np.asarray(line.get_xdata()) for line in ax.lines if len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(ends, [[100 * bound for bound in drops[n].ci95] for n in names])


def test_the_figure_shows_the_numbers_of_the_deployment() -> None:
    found = deployment()
    scores, layers = panels(found)
    check_scores(scores, found)
    check_layers(layers, found)


@pytest.mark.parametrize(
    "other",
    [
        {"scores": (Score(0.9, 0.9, 0.1), *deployment().scores[1:])},
        {"clean": Score(0.97, 1.0, 0.0)},
        {"threshold": 0.8},
    ],
    ids=["a score", "the clean score", "the threshold"],
)
def test_another_score_is_noticed(other: dict) -> None:
    scores, _ = panels(deployment())
    with pytest.raises(AssertionError):
        check_scores(scores, replace(deployment(), **other))


def test_another_drop_is_noticed() -> None:
    _, layers = panels(deployment())
    with pytest.raises(AssertionError):
        check_layers(layers, deployment(layers=(report("fc1", (0.1, 0.12, 0.15)), *deployment().layers[1:])))
