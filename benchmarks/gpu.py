"""All that is measured on a GPU, in order of worth, in slots of time: what a call does not reach the next one does.

    python benchmarks/gpu.py --limit 570 -o OUT [--data-dir DIR] [--device cuda]

1. agreement: the integer words of the random stream, every drift law, and chips' scores, against the CPU's kernels;
2. bandwidth: log-normal drift beside a copy of the same memory and torch's own randn-exp-mul; a product in tiles with
   converters beside the plain TF32 product;
3. the protocol's sweep (31 sigmas x 20 chips x 10,000 images) of three networks;
4. a training of ResNet-18, plain and drift-aware with 4 chips a step;
5. the experiments of benchmarks/bayesft/ with their full budget, one after the other.

Results are in OUT/report.json after every part (benchmarks/slots.py says how parts are run). Without --data-dir,
sweeps and trainings run on random images, and experiments whose data is missing are skipped. `--device torch:cpu
--tiny` runs every part in some seconds on a machine without a GPU: for tests, not for numbers.
"""

import argparse
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from slots import Part, Place, Skipped, arguments, main

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from crossbar_sim.crossbar.drift import DriftModel
    from crossbar_sim.data import Development, Split

EXPERIMENTS = Path(__file__).parent / "bayesft"
ORDER = (
    "best_mnist_mlp", "fig3a_mnist_mlp", "best_lenet5", "fig3b_lenet5", "bayesft_mnist_mlp", "fig3d_resnet18",
    "fastconv_cifar10", "fig3e_vgg11", "fig3f_preact18", "fig3c_alexnet", "fig3i_gtsrb_stn", "fig3g_preact50",
    "fig3h_preact152",
)  # fmt: skip
"""Experiments in order of worth; all others follow, by name."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    words: int = 10_000_000
    cells: int = 100_000_000
    side: int = 1024
    batch: int = 4096
    product: int = 8192
    images: int = 10_000
    sigmas: int = 31
    chips: int = 20
    width: int = 64
    epochs: int = 30
    trained: int = 50_000
    rounds: int = 20


TINY = Sizes(3000, 4096, 64, 8, 64, 40, 2, 2, 4, 1, 64, 1)


def sizes(place: Place) -> Sizes:
    return TINY if place.options.tiny else Sizes()


# 1. Agreement with the CPU.


def agree_words(place: Place) -> Mapping[str, Any]:
    """The words of extreme names, bit for bit."""
    import numpy as np

    from crossbar_sim.crossbar.stream import Stream
    from crossbar_sim.nn.tensor_cells.stream import normals, words
    from crossbar_sim.rng import Key

    n, where, different, off = sizes(place).words, of_torch(place), 0, 0.0
    streams = [
        Stream.of(Key(0), 0), Stream.of(Key(2**64 - 1).fold("a", "b"), 2**32 - 1, 7, 2**32 - 1),
        Stream.of(Key(5).fold("drift"), 3, 1, 2),
    ]  # fmt: skip
    for stream in streams:
        ours = words(n, stream, where).cpu().numpy().astype(np.uint32)
        different += int((ours != stream.words(n)).sum())
        off = max(off, float(np.abs(normals(n, stream, where).cpu().numpy() - stream.normals(n)).max()))
    found = {"words": n * len(streams), "different": different, "normals differ by": off}
    assert not different, found
    assert off < 2e-6, found
    return found


def agree_laws(place: Place) -> Mapping[str, Any]:
    """Every drift law: the largest difference in units of the last place of float32."""
    import numpy as np
    import torch

    from crossbar_sim.crossbar.stream import Stream
    from crossbar_sim.nn.tensor_cells import laws
    from crossbar_sim.rng import Key

    n, where, found = sizes(place).words, of_torch(place), {}
    for law in examples():
        g = np.linspace(1e-6, 1e-4, n, dtype=np.float32)
        stream, theirs = Stream.of(Key(4).fold("drift"), 2), np.empty_like(g)
        law.apply_plane(g, theirs, stream)
        ours = laws.drift(law, torch.from_numpy(g).to(where), stream).cpu().numpy()
        ulp = np.abs(ours.astype(np.float64) - theirs) / np.spacing(np.maximum(theirs, np.float32(1e-6)))
        found[law.kind] = {"largest ulp": float(ulp.max()), "equal": float((ours == theirs).mean())}
        # Draws are good to 2e-6 of a sigma, the gamma law's table to the same once more.
        assert np.allclose(ours, theirs, rtol=4e-6, atol=4e-10), found
    return found


def examples() -> list["DriftModel"]:
    """Each law of the package, with usual parameters."""
    import crossbar_sim as c

    return [
        c.LogNormalDrift(0.6), c.RetentionDrift(0.05, time=1e4, nu_sigma=0.02),
        c.RelaxationShift(1e3, -2e-7, 1e-6, 2e-7), c.MeasuredRelaxation(1e3, 1e-4, (-1e-7, 1e-7), (1e-6,), (1e-7,)),
        c.NormalDrift(0.12), c.UniformDrift(0.2), c.LaplaceDrift(0.1), c.NormalShift(5e-6), c.UniformShift(5e-6),
        c.LaplaceShift(5e-6), c.GammaDrift(0.3), c.ParetoDrift(3.0), c.BernoulliDrift(0.1),
    ]  # fmt: skip


def agree_scores(name: str, place: Place) -> Mapping[str, Any]:
    """Chips of a trained network: the images on which the device and the CPU decide differently.

    At most one and one in a thousand may (docs/gpu.md): those whose two largest outputs are as good as equal.
    """
    from crossbar_sim.robustness import robustness

    network, data = trained(name, place)
    n = min(len(data), sizes(place).images)
    x, y = data.x[:n], data.y[:n]
    chips = sizes(place).chips
    both = [
        robustness({"it": network}, (x, y), "bayesft", [0.0, 0.3, 0.6], chips=chips, device=device).curve(
            "it"
        )
        for device in (place.options.device, "cpu")
    ]
    off = [
        round(abs(a - b) * n)
        for ours, theirs in zip(*both, strict=True)
        for a, b in zip(ours.values, theirs.values, strict=True)
    ]
    found = {
        "images": n, "chips": len(off), "chips that differ": sum(map(bool, off)), "images at most": max(off),
        "clean accuracy": both[1][0].summary.mean,
    }  # fmt: skip
    assert max(off) <= 1 + n // 1000, found
    return found


def agree_tiles(place: Place) -> Mapping[str, Any]:
    """A product in tiles with converters: the share of outputs that are an ADC's step or more apart."""
    import torch

    linear, analog = in_tiles(place)
    x = torch.linspace(-1, 1, 64 * linear.in_features).sin().view(64, -1)
    with torch.inference_mode():
        theirs = analog(x)
        ours = moved(in_tiles(place)[1], place)(x.to(of_torch(place))).cpu()
    off = (ours - theirs).abs() / theirs.abs().max()
    found = {
        "outputs": off.numel(),
        "largest": float(off.max()),
        "above 1e-5": float((off > 1e-5).float().mean()),
    }
    assert found["above 1e-5"] <= 1e-3, found
    return found


# 2. Kernels beside the limits of the memory and of the arithmetic.


def bandwidth(place: Place) -> Mapping[str, Any]:
    """Log-normal drift of one flat tensor, beside a copy and torch's generator."""
    import torch

    from crossbar_sim import Hardware, Key, LogNormalDrift
    from crossbar_sim.crossbar.stream import Stream
    from crossbar_sim.nn.tensor_cells import laws, planes

    n, where = sizes(place).cells, of_torch(place)
    w, law, stream = torch.ones(n, device=where), LogNormalDrift(0.6), Stream.of(Key(0).fold("drift"), 0)
    out, key, rows = torch.empty_like(w), Key(0).fold("it"), 1000 if n % 1000 == 0 else 64
    hardware = Hardware(drift=law, drift_per="weight")
    scale = planes.scale_of(hardware.mapping, w.view(-1, rows))
    times = {
        "copy": lambda: out.copy_(w),
        "torch normal_.mul_.exp_.mul_": lambda: out.normal_().mul_(0.6).exp_().mul_(w),
        "drift": lambda: planes.effective_weight(hardware, w.view(-1, rows), key, 0, scale),
        "drift of conductances alone": lambda: laws.drift(law, w, stream),
    }
    found: dict[str, Any] = {"cells": n}
    for name, call in times.items():
        took = seconds(call, place)
        found[name] = {"ms": took * 1e3, "GB/s": 8e-9 * n / took}
    found["drift, share of the copy's bandwidth"] = found["copy"]["ms"] / found["drift"]["ms"]
    found["drift, times faster than torch"] = (
        found["torch normal_.mul_.exp_.mul_"]["ms"] / found["drift"]["ms"]
    )
    return found


def tiles(place: Place) -> Mapping[str, Any]:
    """A layer in 128-tiles with 8-bit converters beside the plain product."""
    import torch

    linear, analog = in_tiles(place)
    where, side = of_torch(place), linear.in_features
    analog = moved(analog, place)
    w, x = linear.weight.detach().to(where), torch.ones(sizes(place).batch, side, device=where)
    with torch.inference_mode():
        plain = {
            name: seconds(partial(torch.mm, x, w.T), place, name == "TF32") for name in ("TF32", "float32")
        }
        ours = seconds(partial(analog, x), place)
    found = {f"{name} product, ms": took * 1e3 for name, took in plain.items()}
    return found | {"in tiles, ms": ours * 1e3, "times the TF32 product": ours / plain["TF32"]}


def in_tiles(place: Place) -> tuple["nn.Linear", "nn.Module"]:
    """A layer and its copy on arrays, both on the CPU."""
    import torch

    from crossbar_sim import ADC, DAC, Hardware, LogNormalDrift
    from crossbar_sim.nn import seeded, to_analog
    from crossbar_sim.rng import Key

    side = sizes(place).side
    with seeded(Key(0)):
        linear = torch.nn.Linear(side, side, bias=False).eval()
    tile = (min(128, side // 2),) * 2
    hardware = Hardware(drift=LogNormalDrift(0.3), dac=DAC(8), adc=ADC(8, range="max"), tile=tile)
    return linear, to_analog(linear, hardware, seed=0).eval()


def moved(analog: "nn.Module", place: Place) -> "nn.Module":
    """To the device, where arrays are computed by operations on tensors."""
    from crossbar_sim.nn.analog.chips import analog_state

    analog_state(analog).tensors = True
    return analog.to(of_torch(place))


# 3. Sweeps.


def sweep(name: str, place: Place) -> Mapping[str, Any]:
    """The protocol's sweep of a network with random weights, after one small one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from crossbar_sim.robustness import PROTOCOL, robustness

    size, network = sizes(place), made(name, place)
    x, y = images(name, size.images, place)
    sigmas = PROTOCOL[: size.sigmas]
    robustness({name: network}, (x[:100], y[:100]), "bayesft", [0.5], chips=2, device=place.options.device)
    took, values = {}, []
    for precision, asked in (("float32", "highest"), ("TF32", "high")):
        torch.set_float32_matmul_precision(asked)
        try:
            synchronise(place)
            began = perf_counter()
            done = robustness(
                {name: network}, (x, y), "bayesft", sigmas, chips=size.chips, device=place.options.device
            )
            synchronise(place)
        finally:
            torch.set_float32_matmul_precision("highest")
        took[precision] = perf_counter() - began
        values.append([value for point in done.curve(name) for value in point.values])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x[:1])
    evaluations = 1 + (len(sigmas) - 1) * size.chips
    work = counter.get_total_flops() * len(x) * evaluations
    peak = product_rate(place)
    return {
        "seconds": took["float32"], "seconds in TF32": took["TF32"], "evaluations": evaluations, "images": len(x),
        "TFLOP": work * 1e-12, "share of a float32 product's rate": work / took["float32"] / peak["float32"],
        "in TF32, share of a TF32 product's rate": work / took["TF32"] / peak["TF32"],
        "TF32 changes a chip's score by at most": max(abs(a - b) for a, b in zip(*values, strict=True)),
    }  # fmt: skip


def product_rate(place: Place) -> dict[str, float]:
    """Operations per second of a large square product."""
    import torch

    n = sizes(place).product
    a = torch.ones(n, n, device=of_torch(place))
    return {name: 2 * n**3 / seconds(lambda: a @ a, place, name == "TF32") for name in ("float32", "TF32")}


# 4. Trainings.


def train(method: str, place: Place) -> Mapping[str, Any]:
    """Seconds of a training of ResNet-18 for 30 epochs; a stopped one goes on from its last epoch."""
    from crossbar_sim.baselines.drift_aware import DriftAware
    from crossbar_sim.baselines.erm import Erm
    from crossbar_sim.nn import Training
    from crossbar_sim.nn.training.augment import Augment
    from crossbar_sim.rng import Key

    size, epochs = sizes(place), []
    training = Training(
        size.epochs, min(512, size.trained // 2), 2e-3, precision="bfloat16", channels_last=True,
        augment=Augment(crop=4, flip=True), device=place.options.device,
    )  # fmt: skip
    with_drift = DriftAware(training=training, sigma=0.6, chips=4, temperature=False)
    chosen = Erm(training=training) if method == "erm" else with_drift
    report = chosen.fit(
        partial(made, "resnet-18", place), development(place), Key(0),
        progress=lambda epoch: epochs.append(perf_counter()), checkpoint=place.folder / "training.pt",
    ).report  # fmt: skip
    each = [b - a for a, b in pairwise(epochs)]
    return {
        "data": "CIFAR-10" if place.options.data_dir else "random images", "epochs": report.epochs,
        "seconds": report.seconds, "seconds per epoch": min(each, default=report.seconds),
        "validation accuracy": report.validation_accuracy,
    }  # fmt: skip


# 5. Experiments.


def experiment(file: Path, place: Place) -> Mapping[str, Any]:
    """`crossbar-sim run` with the full budget; it goes on where it was stopped."""
    from crossbar_sim.cli import run
    from crossbar_sim.data import load_data
    from crossbar_sim.errors import InputError

    more = ["--data-dir", str(place.options.data_dir)] if place.options.data_dir else []
    if place.options.tiny:
        file = tiny_experiment(place)
    try:
        load_data(tomllib.loads(file.read_text())["data"], place.options.data_dir)
    except InputError as error:
        raise Skipped(str(error)) from error
    device = ["--device", place.options.device]
    code = run(["run", str(file), "-o", str(place.folder), "--no-page", *device, *more])
    assert code == 0, f"exit code {code}; its message is in log.txt"
    return {"files": sorted(path.name for path in place.folder.iterdir() if path.is_file())}


def tiny_experiment(place: Place) -> Path:
    file = place.folder / "tiny.toml"
    file.write_text(
        'title = "Tiny"\ndata = "digits"\nsigmas = [0.0, 0.5]\nchips = 2\n'
        '[train.erm]\nnetwork = "mlp"\narguments = { inputs = 64, hidden = [8] }\nepochs = 1\n'
    )
    return file


# What the parts share.


def of_torch(place: Place) -> "torch.device":
    from crossbar_sim.nn.device import Device

    return Device.of(place.options.device, "--device").where


def synchronise(place: Place) -> None:
    import torch

    if of_torch(place).type == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], place: Place, tf32: bool = False) -> float:
    """The time of one call: the median over rounds of some calls each, after two."""
    import statistics

    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        times = []
        for i in range(sizes(place).rounds + 2):
            synchronise(place)
            began = perf_counter()
            for _ in range(3):
                call()
            synchronise(place)
            if i > 1:
                times.append((perf_counter() - began) / 3)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return statistics.median(times)


def made(name: str, place: Place) -> "nn.Module":
    """A network with random weights; of --tiny a narrow one."""
    from crossbar_sim.nn import seeded
    from crossbar_sim.nn.networks import build
    from crossbar_sim.rng import Key

    given: dict[str, dict[str, Any]] = {
        "mlp": {"hidden": (16,) if place.options.tiny else (192, 32)}, "lenet5": {},
        "resnet-18": {"width": sizes(place).width},
    }  # fmt: skip
    with seeded(Key(0).fold("initialisation")):
        return build(name, **given[name]).eval()


def images(name: str, n: int, place: Place) -> tuple["Tensor", "Tensor"]:
    """Random images and labels of the size that a network takes."""
    import torch

    shape = (3, 32, 32) if name == "resnet-18" else (1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, *shape, generator=generator), torch.randint(10, (n,), generator=generator)


def development(place: Place) -> "Development":
    """CIFAR-10, or as many random images."""
    from crossbar_sim.data import Development, Split, load_data

    if place.options.data_dir:
        return load_data("cifar10", place.options.data_dir).development
    n = sizes(place).trained
    return Development(
        Split(*images("resnet-18", n, place)), Split(*images("resnet-18", n // 10 or 1, place))
    )


def trained(name: str, place: Place) -> tuple["nn.Module", "Split"]:
    """A network after a short training on the device, with its test images: MNIST, CIFAR-10, or enlarged digits."""
    from torch.nn.functional import interpolate

    from crossbar_sim.data import Split, load_data
    from crossbar_sim.nn import Training, fit

    size, real = sizes(place), place.options.data_dir
    data = load_data(("cifar10" if name == "resnet-18" else "mnist") if real else "digits", real)
    parts = [data.development.train, data.test]
    if not real:
        side, channels = (32, 3) if name == "resnet-18" else (28, 1)
        parts = [Split(interpolate(p.x, size=side).repeat(1, channels, 1, 1), p.y) for p in parts]
    few, n = (Split(p.x[:n], p.y[:n]) for p, n in zip(parts, (size.trained, size.images), strict=True))
    epochs = size.epochs if len(few.x) < 10_000 else 2
    network = made(name, place)
    fit(
        network,
        few,
        key=0,
        training=Training(epochs, min(128, len(few.x)), 2e-3, device=place.options.device),
    )
    return network, n


def about(options: argparse.Namespace) -> Mapping[str, Any]:
    import platform

    import torch

    from crossbar_sim import __version__
    from crossbar_sim.nn.device import Device

    Device.of(options.device, "--device")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "gpu": gpu, "device": options.device, "tiny": options.tiny, "torch": torch.__version__,
        "cuda": torch.version.cuda, "crossbar-sim": __version__, "python": platform.python_version(),
    }  # fmt: skip


def parts(tiny: bool) -> list[Part]:
    """All of them, with what they are expected to take on an H100; the first ones compile kernels too."""
    names = ("mlp", "lenet5", "resnet-18")
    listed = sorted(
        EXPERIMENTS.glob("*.toml"),
        key=lambda f: (ORDER.index(f.stem) if f.stem in ORDER else len(ORDER), f.stem),
    )
    found = [
        Part("agree-words", 60, agree_words), Part("agree-laws", 30, agree_laws),
        Part("agree-tiles", 30, agree_tiles),
        *(Part(f"agree-scores-{name}", 60, partial(agree_scores, name)) for name in names),
        Part("bandwidth", 20, bandwidth), Part("tiles", 20, tiles),
        *(Part(f"sweep-{name}", each, partial(sweep, name)) for name, each in zip(names, (20, 30, 120), strict=True)),
        *(Part(f"train-{method}", 30, partial(train, method), keeps=True) for method in ("erm", "drift-aware")),
    ]  # fmt: skip
    found += [Part(f"run-{file.stem}", 30, partial(experiment, file), keeps=True) for file in listed]
    return [Part(p.name, 0.1, p.work, p.keeps) for p in found[: 1 - len(listed)]] if tiny else found


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--data-dir", type=Path, help="where MNIST, CIFAR-10 and the others are")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or torch:cpu  [default: cuda]")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test of the script itself")
    chosen = parser.parse_args()
    raise SystemExit(main(parts(chosen.tiny), chosen, about))
