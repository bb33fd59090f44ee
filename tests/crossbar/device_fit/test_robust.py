"""The estimator: derivatives by differences, consistency at the normal distribution, scale of a sample."""

import numpy as np
import pytest
from helpers.made_devices import measure

from crossbar_sim.crossbar.device_fit import estimation


@pytest.mark.parametrize("law", estimation.LAWS)
@pytest.mark.parametrize("relaxed_at_once", [False, True])
def test_derivatives_of_moments_and_objective_are_those_of_differences(law, relaxed_at_once):
    data = measure(law, cells=2)
    form = estimation.Form(law, 2, 3, relaxed_at_once)
    scales = estimation.Scales(data.g_max, 1e-6)
    theta = np.linspace(0.3, 0.9, len(form.names))
    y, cut = (data.measured - data.target) / scales.error, data.floored
    assert cut.any()

    def values(at):
        m = estimation.moments(form, data, scales, at)
        return m.mean, m.spread, estimation.scores(y, cut, m)[0]

    at = estimation.moments(form, data, scales, theta)
    exact = at.by_mean, at.by_spread, estimation.scores(y, cut, at)[1]
    for i in range(theta.size):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        for ours, high, low in zip(exact, values(theta + step), values(theta - step), strict=True):
            np.testing.assert_allclose(ours[:, i], (high - low) / 2e-6, rtol=2e-5, atol=2e-6)


def test_the_loss_is_consistent_for_normal_errors():
    rng = np.random.default_rng(1)
    y = 3.0 + 2.0 * rng.standard_normal(40_000)

    def model(theta):
        one = np.ones_like(y)
        zero = np.zeros_like(y)
        return estimation.Moments(
            one * theta[0],
            one * np.exp(theta[1]),
            np.stack([one, zero], 1),
            np.stack([zero, one * np.exp(theta[1])], 1),
        )

    found = estimation.estimate(y, model, np.zeros(2))
    assert found.converged
    errors = np.sqrt(np.diag(found.covariance))
    assert abs(found.parameters[0] - 3) < 4 * errors[0]
    assert abs(found.parameters[1] - np.log(2)) < 4 * errors[1]
    # Never better than maximum likelihood, and not much worse.
    assert 1.0 < errors[0] / (2 / np.sqrt(y.size)) < 1.1
    assert 1.0 < errors[1] / (1 / np.sqrt(2 * y.size)) < 1.1


def test_the_spread_of_a_sample_and_its_error():
    rng = np.random.default_rng(2)
    logs = [np.log(estimation.spread_of(rng.standard_normal(100))) for _ in range(400)]
    assert np.mean(logs) == pytest.approx(0, abs=0.02)
    assert np.std(logs) * 10 == pytest.approx(estimation.SPREAD_ERROR, rel=0.12)
    wild = np.concatenate([rng.standard_normal(980), np.full(20, 1e6)])
    assert estimation.spread_of(wild) == pytest.approx(1, rel=0.1)
    assert estimation.spread_of(np.ones(5)) == 0
