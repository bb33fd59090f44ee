"""Claim: one drifted evaluation of LeNet-5 or ResNet-18, chip drawn included, is no slower than plain torch.

    OMP_NUM_THREADS=1 python benchmarks/convnets.py [results.json]

500 images, one core. Plain torch is the clean model's own forward. ResNet-18 is torchvision's, unchanged.
"""

import torch
from timing import interleaved, report, save
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn import program, set_chip, to_analog
from crossbar_sim.nn.analog.chips import frozen
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.networks import build


def measure(title: str, model: nn.Module, x: torch.Tensor, rounds: int) -> dict[str, object]:
    model = model.eval()
    analog = to_analog(model, Hardware.preset("bayesft", sigma=0.6))
    chip = 0

    def plain() -> None:
        with torch.inference_mode():
            model(x)

    def ours() -> None:
        nonlocal chip
        chip += 1
        set_chip(analog, chip)
        outputs(analog, x)

    def drift_alone() -> None:
        nonlocal chip
        chip += 1
        set_chip(analog, chip)
        program(analog)

    candidates = {
        "plain torch forward": plain,
        "crossbar-sim, new chip": ours,
        "drawing the chip alone": drift_alone,
    }
    with frozen(analog):  # as deploy does
        seconds = interleaved(candidates, rounds)
    return report(title, seconds, len(x), "images/s", "plain torch forward")


def main() -> None:
    threads.set_threads(1)
    torch.set_num_threads(1)

    def images(*shape: int) -> torch.Tensor:
        n = 1
        for side in shape:
            n *= side
        return torch.from_numpy(Stream(1, 2, 0, 0).normals(n)).reshape(shape)

    results = [measure("LeNet-5, 500 images 28x28", build("lenet5"), images(500, 1, 28, 28), 15)]
    try:
        from torchvision.models import resnet18

        network = resnet18(num_classes=10)
        results.append(measure("ResNet-18, 500 images 32x32", network, images(500, 3, 32, 32), 7))
    except ImportError:
        print("ResNet-18: torchvision is not installed (pip install '.[vision]')")
    save(results)


if __name__ == "__main__":
    main()
