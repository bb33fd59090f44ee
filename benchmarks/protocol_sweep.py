"""Claim: the paper's sweep of the 784-192-32-10 MLP costs its matrix products, and far less than the official loop.

    CROSSBAR_SIM_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/protocol_sweep.py [results.json]

31 sigmas x 20 chips x 10,000 MNIST images on one core, sigma by sigma in turn with

* the same products alone, by oneDNN in the best block size: the machine's fastest float32 route;
* one evaluation of the peer, scaled to the 20 of a sigma. The peer is the evaluation loop of the official BayesFT
  code, written anew from its description: load the weights from disk, multiply every parameter by exp(N(0, sigma^2)),
  run a DataLoader (eight workers as coded, and none) that makes a PIL image and a tensor of each image. torchvision's
  ToTensor is done by hand in the same steps.
"""

import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from timing import interleaved, processor, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from crossbar_sim import Hardware
from crossbar_sim.crossbar import threads
from crossbar_sim.data import load_data
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import robustness
from crossbar_sim.robustness.benchmark import PROTOCOL
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.score import Reference

CHIPS = tuple(range(20))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: through PIL to a float tensor, one by one."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.pixels[i].numpy())
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(28, 28, 1)
        return tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255), int(self.labels[i])


def peer(network: nn.Module, file: Path, loader: DataLoader[tuple[Tensor, int]], sigma: float) -> float:
    network.load_state_dict(torch.load(file, weights_only=True))
    network.eval()
    right = total = 0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.empty_like(parameter).normal_().mul(sigma).exp())
        for x, y in loader:
            right += int((network(x).argmax(1) == y).sum())
            total += len(y)
    return right / total


def products(weights: list[Tensor], x: Tensor, block: int) -> None:
    with torch.inference_mode():
        for i in range(0, len(x), block):
            h = x[i : i + block]
            for w, b in zip(weights[::2], weights[1::2], strict=True):
                h = torch.ops.mkldnn._linear_pointwise(h, w, b, "none", [], "")


def main() -> None:
    threads.set_threads(1)
    torch.set_num_threads(1)
    data = load_data("mnist").test
    assert data.y is not None
    network = build("mlp", inputs=784, hidden=(192, 32), classes=10).eval()
    reference = Reference.of(network, data.x, data.y)
    evaluator = Subject(network, Hardware.preset("bayesft"), reference, "accuracy", 0).evaluator
    weights, flat = [p.detach() for p in network.parameters()], data.x.flatten(1)
    by_block = interleaved(
        {str(b): lambda b=b: products(weights, flat, b) for b in (250, 500, 1000, 10_000)}, rounds=5
    )
    block = int(min(by_block, key=lambda name: by_block[name]))
    file = Path(tempfile.mkdtemp()) / "model.pt"
    torch.save(network.state_dict(), file)
    twin = build("mlp", inputs=784, hidden=(192, 32), classes=10)
    pixels = (data.x[:, 0] * 255).round().to(torch.uint8)
    pictures = Pictures(pixels, data.y)
    loaders = {n: DataLoader(pictures, batch_size=128, num_workers=n) for n in (8, 0)}
    theirs: dict[int, list[float]] = {8: [], 0: []}
    ours, alone = [], []
    evaluator.measure(Job(0.5, CHIPS[:1]))
    for number, sigma in enumerate(PROTOCOL):
        began = perf_counter()
        evaluator.measure(Job(sigma, CHIPS))
        ours.append(perf_counter() - began)
        began = perf_counter()
        for _ in CHIPS if sigma else CHIPS[:1]:
            products(weights, flat, block)
        alone.append(perf_counter() - began)
        for workers, loader in loaders.items() if number % 3 == 0 else ():
            began = perf_counter()
            peer(twin, file, loader, sigma)
            theirs[workers].append(perf_counter() - began)
    began = perf_counter()
    robustness({"mlp": network}, data, sigmas=PROTOCOL, chips=CHIPS)
    call = perf_counter() - began
    evaluations = 1 + (len(PROTOCOL) - 1) * len(CHIPS)
    all_chips = len(PROTOCOL) * len(CHIPS)  # the official loop evaluates sigma = 0 twenty times as well
    total = {
        "crossbar-sim": sum(ours),
        f"its products alone ({block} images at a time)": sum(alone),
        "robustness(...), all in": call,
        "official loop as coded, 8 workers": float(np.median(theirs[8])) * all_chips,
        "official loop, no workers": float(np.median(theirs[0])) * all_chips,
    }
    ratio = float(np.median([a / b for a, b in zip(ours[1:], alone[1:], strict=True)]))
    print(f"{evaluations} evaluations; the official loop scaled from {len(theirs[0])} [{processor()}]")
    rows = {}
    one_sigma = float(np.median(ours[1:]))
    for name, seconds in total.items():
        rows[name] = {"seconds": seconds, "ratio": seconds / sum(ours)}
        print(f"  {name:<48} {seconds:8.2f} s  {seconds / sum(ours):6.2f} x")
    peers = {n: float(np.median(times)) * len(CHIPS) / one_sigma for n, times in theirs.items()}
    print(
        f"  medians over sigmas: {ratio:.3f} of its products; the official loop {peers[8]:.1f} and {peers[0]:.1f} times"
    )
    medians = {"of its products": ratio, "official as coded": peers[8], "official without workers": peers[0]}
    save([{"title": "protocol sweep", "processor": processor(), "rows": rows, "medians": medians}])


if __name__ == "__main__":
    main()
