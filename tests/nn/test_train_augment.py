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


def test_alternating_mirror_images_show_every_image_both_ways_in_two_epochs() -> None:
    augment = Augment(2, "alternating")
    first, second, third = (augment.draw(1000, Key(0), epoch, CPU) for epoch in (1, 2, 3))
    assert torch.equal(first[:, 2] + second[:, 2], torch.ones(1000).long())
    assert torch.equal(first[:, 2], third[:, 2])
    assert first[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert not torch.equal(first[:, :2], third[:, :2])


def test_reflected_padding_is_torchs() -> None:
    x = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(1, 2, 3, 4)
    for down, right in ((0, 0), (4, 1)):
        moved = Augment(2, padding="reflect").apply(x, torch.tensor([[down, right, 0]]))
        padded = torch.nn.functional.pad(x, (2, 2, 2, 2), "reflect")
        assert torch.equal(moved, padded[:, :, down : down + 3, right : right + 4])


def test_an_augmentation_is_known_by_the_text_it_had() -> None:
    assert repr(Augment(2, True)) == "Augment(crop=2, flip=True)"
    assert (
        repr(Augment(2, "alternating", "reflect")) == "Augment(crop=2, flip='alternating', padding='reflect')"
    )


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
        (lambda: Augment(1, "sometimes"), "flip='sometimes'"),
        (lambda: Augment(1, padding="edge"), "padding='edge'"),
        (lambda: Augment(flip=True, padding="reflect"), "nothing is padded"),
        (lambda: Augment(3, padding="reflect").check(torch.ones(1, 1, 3, 5)), "reflect at most 2"),
        (lambda: Augment.of({"crop": 2, "flipp": True}, "augment"), "did you mean 'flip'"),
        (lambda: Augment.of(2, "augment"), "expected a table"),
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
