"""Claim: calling things costs little beside computing, drawing chips less than 5 % of a forward; two threads help.

    CROSSBAR_SIM_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/small_models.py [results.json]

1. The digits MLP (64-64-32-10, 450 images), 160 chips through the Evaluator, beside its kernels alone (the drift
   kernel, three products, two ReLUs and an argmax per chip, called one after another) and the way of any model.
2. LeNet-5 and ResNet-18 on 2,000 images: the share of a chip's evaluation that programming takes.
3. One thread and two, over the MNIST MLP (10,000 images), LeNet-5 and the digits MLP.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from timing import interleaved, processor, report, save
from torch import Tensor, nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.configuration import at_sigma
from crossbar_sim.data import load_data
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips as handle
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness.evaluator import AnyModel, Evaluator, Job, OfChain, Subject
from crossbar_sim.robustness.score import Reference

PAPER = Hardware.preset("bayesft")
CHIPS = 160


class Block(nn.Module):
    """Two convolutions and a way around them: He et al., CVPR 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        around = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.around = nn.Sequential(*(around if stride > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.around(x))


def resnet18() -> nn.Module:
    """ResNet-18 in torchvision's form: 7x7 stem with pooling, 11 M weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    sizes = (64, 64, 128, 256, 512)
    for inputs, outputs in pairwise(sizes):
        layers += [Block(inputs, outputs, 1 + (inputs != outputs)), Block(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def subject(model: nn.Module, x: Tensor, y: Tensor) -> Subject:
    return Subject(model.eval(), PAPER, Reference.of(model.eval(), x, y), "accuracy", 0)


class Chips:
    """Never the same chip twice."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, n: int) -> tuple[int, ...]:
        """The next n."""
        self.last += n
        return tuple(range(self.last - n, self.last))


def overhead(given: Subject) -> dict[str, object]:
    fresh, hardware = Chips(), at_sigma(PAPER, 0.6)
    evaluator = given.evaluator
    measurer = evaluator.measurers.free.get()
    assert isinstance(measurer, OfChain)
    evaluator.measurers.free.put(measurer)
    chain, x, y = measurer.chain, measurer.x.flatten(1), measurer.labels
    chain.program(hardware, (0,))
    general = AnyModel(given, to_analog(given.module, PAPER))

    def kernels() -> None:
        with torch.inference_mode():
            for _ in range(CHIPS // chain.size):
                chips = np.array(fresh(chain.size), np.uint32)
                for writer, out in chain.writers:
                    writer.write(chips, out)
                for (w1, b1), _, (w2, b2), _, (w3, b3) in chain.plans:
                    h = F.linear(x, w1, b1).relu_()
                    h = F.linear(h, w2, b2).relu_()
                    torch.count_nonzero(F.linear(h, w3, b3).argmax(1) == y)

    candidates = {
        "kernels alone": kernels,
        "Evaluator": lambda: evaluator.measure(Job(0.6, fresh(CHIPS))),
        "any model's way": lambda: general.trials(hardware, 0.6, fresh(CHIPS), None),
    }
    seconds = {name: time / CHIPS for name, time in interleaved(candidates, 25).items()}
    return report("digits MLP, 450 images, one chip", seconds, 1.0, "chips/s", "kernels alone")


def drawing(name: str, given: Subject, rounds: int) -> dict[str, object]:
    fresh, analog = Chips(), to_analog(given.module, at_sigma(PAPER, 0.6))
    handle.analog_state(analog).frozen = True

    def draw() -> None:
        handle.set_chip(analog, 1 + fresh(1)[0])
        handle.program(analog)

    general = AnyModel(given, to_analog(given.module, PAPER))
    candidates = {
        "a chip's evaluation": lambda: general.trials(at_sigma(PAPER, 0.6), 0.6, fresh(1), None),
        "drawing the chip": draw,
    }
    title = f"{name}, {len(given.reference.x)} images"
    return report(title, interleaved(candidates, rounds), 1.0, "chips/s", "a chip's evaluation")


def both_cores(name: str, given: Subject, chips: int, rounds: int) -> dict[str, object]:
    fresh, evaluators = Chips(), {}
    for count in (1, 2):
        threads.set_threads(count)
        evaluators[count] = Evaluator(given)

    def run(count: int) -> None:
        threads.set_threads(count)
        evaluators[count].measure(Job(0.6, fresh(chips)))

    seconds = interleaved({f"{n} threads": lambda n=n: run(n) for n in (2, 1)}, rounds)
    threads.set_threads(1)
    return report(f"{name}, {chips} chips", seconds, chips, "chips/s", "2 threads")


def main() -> None:
    threads.set_threads(1)
    torch.set_num_threads(1)
    digits, mnist = load_data("digits").test, load_data("mnist").test
    small = subject(build("mlp", inputs=64, hidden=(64, 32), classes=10), digits.x, digits.y)
    results = [overhead(small)]
    lenet = subject(build("lenet5"), mnist.x[:2000], mnist.y[:2000])
    colours = F.interpolate(mnist.x[:2000], 32).expand(2000, 3, 32, 32).contiguous()
    results.append(drawing("LeNet-5, 28x28", lenet, 9))
    results.append(drawing("ResNet-18, 32x32", subject(resnet18(), colours, mnist.y[:2000]), 3))
    mlp = subject(build("mlp", inputs=784, hidden=(192, 32), classes=10), mnist.x, mnist.y)
    for name, given, chips in (("MNIST MLP", mlp, 10), ("LeNet-5", lenet, 6), ("digits MLP", small, 640)):
        results.append(both_cores(name, given, chips, 9))
    save([{"processor": processor(), **result} for result in results])


if __name__ == "__main__":
    main()
