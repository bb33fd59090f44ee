from collections.abc import Callable

import numpy as np
import pytest
import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.rng import Key


def draws(key: Key) -> torch.Tensor:
    with seeded(key):
        return torch.rand(8)


def test_the_same_key_gives_the_same_numbers() -> None:
    assert torch.equal(draws(Key(0).fold("a")), draws(Key(0).fold("a")))


def test_another_key_gives_others() -> None:
    assert not torch.equal(draws(Key(0).fold("a")), draws(Key(0).fold("b")))
    assert not torch.equal(draws(Key(0)), draws(Key(1)))


def test_the_largest_seed_is_taken() -> None:
    assert torch.equal(draws(Key(2**64 - 1)), draws(Key(2**64 - 1)))


def test_the_callers_stream_does_not_notice() -> None:
    state = torch.get_rng_state()
    draws(Key(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_state_is_put_back_after_an_exception() -> None:
    state = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(Key(3)):
        raise KeyError(torch.rand(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_nested_streams_do_not_disturb_each_other() -> None:
    with seeded(Key(1)):
        first = torch.rand(4)
        draws(Key(2))
        second = torch.rand(4)
    with seeded(Key(1)):
        assert torch.equal(torch.rand(8), torch.cat([first, second]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_seeded_and_put_back_too() -> None:
    state = torch.cuda.get_rng_state()
    found = []
    for _ in range(2):
        with seeded(Key(5)):
            found.append(torch.rand(4, device="cuda"))
    assert torch.equal(found[0], found[1])
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_a_permutation_holds_everything_once(n: int) -> None:
    order = permutation(n, Key(0))
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))


def test_a_permutation_depends_on_its_key_only() -> None:
    with seeded(Key(8)):
        first = permutation(50, Key(4))
        torch.rand(3)
    assert torch.equal(first, permutation(50, Key(4), "cpu"))
    assert not torch.equal(first, permutation(50, Key(5)))


def test_a_permutation_advances_no_stream() -> None:
    state = torch.get_rng_state()
    permutation(10, Key(0))
    assert torch.equal(torch.get_rng_state(), state)


def place_of_zero(make: Callable[[int, Key], torch.Tensor]) -> float:
    """Chi-square of where 0 lands among 8 places, in 4,000 orders: 7 degrees of freedom."""
    places = [int((make(8, Key(0).fold(str(i))) == 0).nonzero()) for i in range(4000)]
    counts = np.bincount(places, minlength=8)
    return float(((counts - 500) ** 2 / 500).sum())


def test_orders_are_uniform_and_a_lazy_shuffle_is_seen() -> None:
    limit = 24.32  # the 0.999 quantile of chi-square with 7 degrees of freedom
    assert place_of_zero(lambda n, key: permutation(n, key)) < limit

    def rotation(n: int, key: Key) -> torch.Tensor:  # the negative control: 0 never lands last
        return torch.arange(n).roll(key.integer() % (n - 1))

    assert place_of_zero(rotation) > limit


@pytest.mark.parametrize("n", [-1, 2.0, True, None])
def test_no_order_of_nonsense(n: object) -> None:
    with pytest.raises(InputError, match="integer number"):
        permutation(n, Key(0))  # type: ignore[arg-type]
