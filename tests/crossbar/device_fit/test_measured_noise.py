"""Programming noise with a mean: Eq. (6b)."""

import numpy as np
import pytest

from crossbar_sim import Differential, Hardware, InputError, Key, MeasuredNoise, PolynomialNoise
from crossbar_sim.crossbar import configuration

US = 1e-6


def test_cells_have_the_mean_and_spread_of_their_target():
    noise = MeasuredNoise((0.5 * US, 1.0 * US), 40 * US, (1.0 * US, -3.0 * US))
    assert noise.mu(20 * US) == pytest.approx(-0.5 * US)
    assert noise.sigma(20 * US) == pytest.approx(1.0 * US)
    hardware = Hardware(Differential(0.0, 40 * US), programming=noise)
    w = np.full((200, 200), 0.5, np.float32)
    w[0, 0] = 1.0
    cells = hardware.program(w, Key(2), 0).programmed[0][1:]
    # 39,800 cells: standard errors of 0.5 % and 0.35 % of the spread
    assert cells.mean() == pytest.approx(19.5 * US, abs=0.025 * US)
    assert cells.std() == pytest.approx(1.0 * US, rel=0.015)


def test_without_a_mean_it_is_polynomial_noise_to_rounding_and_never_below_0():
    both = (PolynomialNoise((2 * US, 1 * US), 40 * US), MeasuredNoise((2 * US, 1 * US), 40 * US, (0.0,)))
    w = np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30)
    a, b = (
        Hardware(Differential(0.0, 40 * US), programming=n).program(w, Key(0), 1).programmed for n in both
    )
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-11)
    down = Hardware(Differential(0.0, 40 * US), programming=MeasuredNoise((0.0,), 40 * US, (-5 * US,)))
    cells = down.program(w, Key(0), 1).programmed
    assert cells.min() == 0
    assert cells.max() == pytest.approx(35 * US, rel=1e-5)


def test_it_survives_a_file_and_impossible_means_are_refused():
    hardware = Hardware(programming=MeasuredNoise((1e-6,), 4e-5, (1e-6, -2e-6)))
    assert Hardware.from_toml(configuration.to_toml(hardware)) == hardware
    text = "measured:coefficients=1e-6/2e-6,reference=4e-5,mean=-1e-6"
    assert configuration.from_text("programming", text) == MeasuredNoise((1e-6, 2e-6), 4e-5, (-1e-6,))
    for mean in ((), (float("nan"),), (1e31,), "1", 3):
        with pytest.raises(InputError, match="mean="):
            MeasuredNoise((1e-6,), 4e-5, mean)
    with pytest.raises(InputError, match="is the reference given in S"):
        Hardware(programming=MeasuredNoise((1e-6,), 1e-30, (1.0, 1.0, 1.0)))
