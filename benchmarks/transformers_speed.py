"""Time of a new chip's evaluation of two transformers, beside the plain forward and drift written in plain torch.

One thread, interleaved rounds, processor time, medians. ViT-tiny needs timm.

    python benchmarks/transformers_speed.py [rounds]
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import timm
import torch
from torch import Tensor, nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn import set_chip
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.evaluate import one_thread
from crossbar_sim.nn.seeding import normals, seeded
from crossbar_sim.rng import Key

SIGMA = 0.3


def encoder() -> nn.Module:
    """Like BERT: 6 layers of 256 features, 4 heads."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder, 6 layers of 256, 64 x 128 tokens": (encoder, (64, 128, 256)),
    "timm vit_tiny_patch16_224, 64 images": (
        lambda: timm.create_model("vit_tiny_patch16_224"),
        (64, 3, 224, 224),
    ),
}


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def measure(make: Callable[[], nn.Module], shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Medians of the plain forward, of a new chip (programming and forward), and of the same in plain torch."""
    with seeded(Key(0)):
        model, drifting = make().eval(), make().eval()
    x = torch.from_numpy(Stream(1, 2, 0, 0).normals(torch.Size(shape).numel())).reshape(shape)
    analog, _ = map_model(model, Hardware.preset("bayesft", sigma=SIGMA), x[:2])
    with chips.frozen(analog), torch.inference_mode():
        return timed(model, drifting, analog, x, rounds)


def timed(
    model: nn.Module, drifting: nn.Module, analog: nn.Module, x: Tensor, rounds: int
) -> dict[str, float]:
    """The rounds of `measure`."""
    clean = [p.detach() for p in model.parameters()]
    held = [p.detach() for p in drifting.parameters()]
    found: dict[str, list[float]] = {"plain forward": [], "programming": [], "new chip": [], "randn_like": []}

    def drift() -> None:
        for p, q in zip(clean, held, strict=True):
            torch.mul(p, normals(p.numel(), p.device).view_as(p).mul_(SIGMA).exp_(), out=q)

    for chip in range(rounds + 1):
        set_chip(analog, chip + 1)
        programming = seconds(lambda: chips.program(analog))
        times = {
            "plain forward": seconds(lambda: model(x)),
            "programming": programming,
            "new chip": programming + seconds(lambda: analog(x)),
            "randn_like": seconds(drift) + seconds(lambda: drifting(x)),
        }
        for name, value in times.items():
            if chip:  # the first round compiles and warms up
                found[name].append(value)
    return {name: median(values) for name, values in found.items()}


def main() -> None:
    """Print the table."""
    one_thread()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print("| model | plain forward | programming | new chip | plain torch with drift |")
    print("|---|---|---|---|---|")
    for name, (make, shape) in MODELS.items():
        found = measure(make, shape, rounds)
        plain = found["plain forward"]
        cells = [
            f"{found[k]:.3f} s, {found[k] / plain:.3f}" for k in ("programming", "new chip", "randn_like")
        ]
        print(f"| {name} | {plain:.3f} s | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
