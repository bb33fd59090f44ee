import pytest
import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.training.augment import Augment, Normalise
from crossbar_sim.rng import Key

CPU = torch.device("cpu")


def twin(x: torch.Tensor, crop: int, drawn: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel: out[i, j] = x[i + down - crop, j + right - crop], mirrored, 0 outside."""
    out = torch.zeros_like(x)
    for b, (down, right, mirrored) in enumerate(drawn.tolist()):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                column = x.shape[3] - 1 - j if mirrored else j
                r, c = i + down - crop, column + right - crop
                if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]:
                    out[b, :, i, j] = x[b, :, r, c]
    return out


@pytest.mark.parametrize(("crop", "flip"), [(2, False), (0, True), (2, True)])
def test_the_gather_equals_its_twin(crop: int, flip: bool) -> None:
    augment = Augment(crop, flip)
    x = torch.arange(6 * 2 * 3 * 5, dtype=torch.float32).reshape(6, 2, 3, 5) + 1
    drawn = augment.draw(6, Key(3), 1, CPU)
    assert torch.equal(augment.apply(x, drawn), twin(x, crop, drawn))


def test_draws_are_fair_and_named() -> None:
    augment = Augment(2, True)
    drawn = augment.draw(5000, Key(0), 1, CPU)
    assert torch.equal(drawn, augment.draw(5000, Key(0), 1, CPU))
    assert not torch.equal(drawn, augment.draw(5000, Key(1), 1, CPU))
    assert drawn[:, :2].min() == 0
    assert drawn[:, :2].max() == 4
    assert drawn[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert Augment(2).draw(100, Key(0), 1, CPU)[:, 2].max() == 0
    assert Augment(flip=True).draw(100, Key(0), 1, CPU)[:, :2].max() == 0


def test_normalisation_gives_mean_0_and_variance_1_and_travels_with_the_network() -> None:
    x = torch.linspace(0, 1, 4 * 3 * 5 * 5).reshape(4, 3, 5, 5) ** 2
    layer = Normalise.of(x)
    y = layer(x).transpose(0, 1).flatten(1)
    assert torch.allclose(y.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.std(1, correction=0), torch.ones(3), atol=1e-5)
    assert set(layer.state_dict()) == {"mean", "std"}
    assert not list(layer.parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Augment(), "does nothing"),
        (lambda: Augment(-1), "crop=-1"),
        (lambda: Augment(True), "crop=True"),
        (lambda: Augment(1, 1), "flip=1"),
        (lambda: Normalise([0.5], [0.2, 0.2]), "1 means and 2 stds"),
        (lambda: Normalise([], []), "0 means"),
        (lambda: Normalise([0.5], [0.0]), "above 0"),
        (lambda: Normalise.of(torch.ones(3, 1, 2, 2)), "above 0"),
        (lambda: Augment(1).check(torch.ones(3, 4)), r"\(4,\)"),
    ],
)
def test_bad_settings_are_one_sentence(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
