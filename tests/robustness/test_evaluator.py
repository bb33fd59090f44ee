"""Measuring chips: bits that depend on nothing but the chip, for any model, by either way through it."""

import importlib
import pickle
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossbar_sim import Hardware, InputError, Key
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.configuration import at_sigma
from crossbar_sim.nn.evaluate import BLOCK
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.pickling import packed, unpacked
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.robustness import evaluator as module
from crossbar_sim.robustness.evaluator import AnyModel, Evaluator, Job, OfChain, Subject
from crossbar_sim.robustness.score import Reference

PAPER = Hardware.preset("bayesft")
CHIPS = tuple(range(13))


@pytest.fixture(autouse=True)
def _restored():
    before = threads.threads()
    yield
    threads.set_threads(before)


def made(build) -> nn.Module:
    """The same random weights every time, in evaluation mode."""
    with seeded(Key(0).fold("test")):
        return build().eval()


class Attention(nn.Module):
    """A model that is no chain: rows of an image as a sequence, through attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        rows = x.flatten(1, 2)
        return self.head(self.attention(rows, rows, rows)[0].mean(1))


class Recurrent(nn.Module):
    """The same rows through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.lstm(x.flatten(1, 2))[0][:, -1])


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4))


def mlp() -> nn.Module:
    return build("mlp", inputs=64, hidden=(16, 12), classes=4, dropout=0.3)


def exported() -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(made(mlp), (images(5),), dynamic_shapes=({0: batch},)).module()


def images(n: int) -> torch.Tensor:
    return torch.sin(torch.arange(64.0 * n) * 1.7 + 0.3).reshape(n, 1, 8, 8)


MODELS = {
    "chain": lambda: made(mlp),
    "convolution": lambda: made(convolution),
    "graph": exported,
    "attention": lambda: made(Attention),
    "recurrent": lambda: made(Recurrent),
}


def subject(model: nn.Module, metric: str = "accuracy", hardware: Hardware = PAPER, n: int = 203) -> Subject:
    x = images(n)
    reference = Reference.of(model, x, torch.arange(n) % 4, block=40)
    return Subject(model, hardware, reference, metric, seed=5)


def measured(subject: Subject, job: Job, count: int = 1) -> list:
    threads.set_threads(count)
    return Evaluator(subject).measure(job)


@pytest.mark.parametrize("images", [None, 50])
@pytest.mark.parametrize("metric", ["accuracy", "agreement", "output_error"])
@pytest.mark.parametrize("name", MODELS)
def test_trials_depend_neither_on_threads_nor_on_blocks_nor_on_order(name, metric, images):
    if metric == "output_error" and images:
        pytest.skip("no mean over images")
    given = subject(MODELS[name](), metric)
    whole = measured(given, Job(0.7, CHIPS, images))
    assert [t.chip for t in whole] == list(CHIPS)
    assert len({t.value for t in whole}) > 1  # the chips differ: the test can see something
    for count in (2, 3):
        assert measured(given, Job(0.7, CHIPS, images), count) == whole
    threads.set_threads(2)
    evaluator = Evaluator(given)
    parts = [CHIPS[9:], CHIPS[:2], CHIPS[2:9]]
    evaluator.measure(Job(0.2, CHIPS[:3], images))  # another sigma before, in the same memory
    found = [trial for part in parts for trial in evaluator.measure(Job(0.7, part, images))]
    assert sorted(found, key=lambda t: t.chip) == whole
    backwards = evaluator.measure(Job(0.7, CHIPS[::-1], images))
    assert backwards == whole[::-1]


@pytest.mark.parametrize("name", ["chain", "convolution", "attention", "recurrent", "exported file"])
def test_a_pickled_subject_measures_the_same(name, files):
    given = subject(load_model(files.dynamic).module if name == "exported file" else MODELS[name]())
    before = given.evaluator.measure(Job(0.7, (0, 3), 40))  # an evaluator that is there is not pickled
    again = pickle.loads(pickle.dumps(given))
    assert again.evaluator.measure(Job(0.7, (0, 3), 40)) == before


class Sorted(nn.Module):
    """Nested lists, slices, types and devices among a graph's arguments, and one of several outputs taken."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.register_buffer("order", torch.arange(7, -1, -1))

    def forward(self, x):
        values, _ = x[:, 0, ::8, 1].to(torch.float64).sort(dim=1)
        rows = torch.cat([values.float(), x.flatten(1)[:, :8]], 1)[:, None, :8]
        with torch.no_grad():
            rows = torch.einsum("bij,j->bi", rows * 2, torch.ones(8))
        return self.fc(x.flatten(1)[:, self.order] + rows)


SENT = {
    "recurrent with dynamic batch": lambda: graph_of(Recurrent),
    "with nested graph": lambda: graph_of(Sorted),
    "convolution": lambda: graph_of(convolution),
    "graph inside a module": lambda: nn.Sequential(graph_of(convolution), nn.Linear(4, 4)),
    "traced": lambda: torch.fx.symbolic_trace(made(convolution)),
    "class without a name": lambda: nameless(),
}


def graph_of(make) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(made(make), (images(5),), dynamic_shapes=({0: batch},)).module()


def nameless() -> nn.Module:
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.act = made(convolution), lambda x: x * 2

        def forward(self, x):
            return self.act(self.net(x))

    return Local().eval()


@pytest.mark.parametrize("name", SENT)
def test_models_that_pickle_alone_cannot_send(name):
    given = subject(SENT[name]())
    again = pickle.loads(pickle.dumps(given))
    assert again.evaluator.measure(Job(0.7, (0, 3), 40)) == given.evaluator.measure(Job(0.7, (0, 3), 40))
    twice = pickle.loads(pickle.dumps(again))  # Dask sends it from worker to worker
    x = images(9)
    assert torch.equal(twice.module(x), given.module(x))


def test_receiving_a_graph_does_not_disturb_a_model_that_runs_meanwhile():
    """torch's own unpickling traces the graph, for which it replaces methods of `nn.Module` in every thread."""
    data = packed(graph_of(convolution))
    model, x = made(convolution), images(5)
    want, stop = model(x), threading.Event()

    def receive():
        while not stop.is_set():
            unpacked(data)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        for _ in range(100):
            assert torch.equal(model(x), want)
    finally:
        stop.set()
        thread.join()


def test_a_model_that_cannot_be_sent_is_refused_in_one_line():
    model = made(convolution)
    model.lock = threading.Lock()
    with pytest.raises(InputError, match="run it without workers") as caught:
        packed(model)
    assert "\n" not in str(caught.value)


def test_code_beside_the_user_is_found_on_a_worker_or_missed_in_one_line(tmp_path):
    (tmp_path / "besides_me.py").write_text("import torch\nclass Net(torch.nn.Flatten):\n    size = 3\n")
    sys.path.insert(0, str(tmp_path))
    try:
        data = packed(importlib.import_module("besides_me").Net())
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["besides_me"]
    before = list(sys.path)
    try:
        assert unpacked(data).size == 3
    finally:
        sys.path[:] = before
        sys.modules.pop("besides_me", None)
    (tmp_path / "besides_me.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(
        InputError, match=r"No module named 'besides_me'.*it needs besides_me from .*without workers"
    ):
        unpacked(data)


def test_chips_of_a_design_without_randomness_are_measured_once(monkeypatch):
    calls = []
    for kind in (AnyModel, OfChain):
        plain = kind.trials
        monkeypatch.setattr(
            kind,
            "trials",
            lambda self, h, s, c, i, plain=plain: (calls.append(c), plain(self, h, s, c, i))[1],
        )
    for name in ("chain", "convolution"):
        given = subject(MODELS[name]())
        trials = measured(given, Job(0.0, CHIPS))
        clean = float((given.module(given.reference.x).argmax(1) == given.reference.y).float().mean())
        assert [t.chip for t in trials] == list(CHIPS)
        assert {round(t.value, 6) for t in trials} == {round(clean, 6)}
    assert calls == [(0,), (0,)]
    measured(given, Job(0.0, CHIPS[:4], 30))  # images are drawn: chips differ by those
    assert len(calls) == 6


def test_copies_share_the_clean_parameters():
    threads.set_threads(3)
    given = subject(made(convolution))
    evaluator = Evaluator(given)
    copies = [evaluator.measurers.free.get() for _ in range(evaluator.count)]
    assert len(copies) == 3
    clean = {p.data_ptr() for p in given.module.parameters()}
    assert all({p.data_ptr() for p in each.analog.parameters()} == clean for each in copies)


# The short way of chains


@pytest.mark.parametrize("images", [None, 50, 90])
@pytest.mark.parametrize("metric", ["accuracy", "agreement"])
@pytest.mark.parametrize("n", [7, 203])
@pytest.mark.parametrize(
    "hardware",
    [
        PAPER,
        Hardware.preset("bayesft", g_min=1e-6, g_max=1e-4, levels=16, stuck_off=0.02),
        Hardware(),
        Hardware.preset("bayesft", bias="digital"),
    ],
    ids=["paper", "harsh", "cells", "digital bias"],
)
def test_a_chain_gives_the_bits_of_the_models_own_forward(monkeypatch, hardware, metric, images, n):
    given = subject(made(mlp), metric, hardware, n)
    assert isinstance(Evaluator(given).measurers.free.get(), OfChain)
    short = measured(given, Job(0.9, CHIPS, images))
    monkeypatch.setattr(module.SequentialChips, "of", lambda analog: None)
    assert isinstance(Evaluator(given).measurers.free.get(), AnyModel)
    assert measured(given, Job(0.9, CHIPS, images)) == short


class Functional(nn.Module):
    """A network as most are written."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(64, 9), nn.Linear(9, 4), nn.Dropout(0.5)

    def forward(self, x):
        x = x.view(-1, 64)
        return self.second(self.drop(F.relu(self.first(x))))


class Residual(Functional):
    def forward(self, x):
        h = self.first(x.flatten(1))
        return self.second(F.relu(h) + h)


class Scaled(Functional):
    def forward(self, x):
        return self.second(2 * self.first(x.flatten(1)))


class ByValue(Functional):
    def forward(self, x):
        x = x.flatten(1)
        return self.second(self.first(x if x.sum() > 0 else -x))


class Normalised(Functional):
    def forward(self, x):
        return self.second(F.layer_norm(self.first(x.flatten(1)), (9,)))


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), *layers, nn.Linear(9, 4))


def shared() -> nn.Module:
    middle = nn.Linear(9, 9)
    return sequential(middle, nn.Tanh(), middle)


def hooked() -> nn.Module:
    model = sequential(nn.ReLU())
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    return model


@pytest.mark.parametrize(
    ("make", "chain"),
    [
        (Functional, True),
        (lambda: sequential(nn.GELU(), nn.Dropout(0.2), nn.Identity()), True),
        (lambda: sequential(nn.ReLU(inplace=True)), True),
        (shared, True),
        (lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)), True),
        (Residual, False),
        (Scaled, False),
        (ByValue, False),
        (Normalised, False),
        (hooked, False),
        (lambda: sequential(nn.LayerNorm(9)), False),
        (lambda: sequential(nn.Softmax(1)), False),
        (lambda: sequential().double(), False),
        (convolution, False),
    ],
)
def test_what_is_a_chain_and_what_is_not(make, chain, monkeypatch):
    given = subject_of(made(make))
    before = given.reference.x.clone()
    assert isinstance(Evaluator(given).measurers.free.get(), OfChain if chain else AnyModel)
    found = measured(given, Job(0.6, CHIPS[:3]))
    monkeypatch.setattr(module, "_chain", lambda *_: None)
    assert measured(given, Job(0.6, CHIPS[:3])) == found
    assert torch.equal(given.reference.x, before)  # no activation has overwritten the images


def subject_of(model: nn.Module) -> Subject:
    x = images(60).to(next(model.parameters()).dtype)
    return Subject(model, PAPER, Reference.of(model, x, torch.arange(60) % 4), "accuracy", 0)


def test_a_chain_counts_outputs_that_are_no_numbers_as_wrong(monkeypatch):
    model = made(mlp)
    with torch.no_grad():
        largest = float(model(images(203)).abs().max())
        model.fc3.weight.mul_(1e30)
        for parameter in (model.fc1.weight, model.fc1.bias):
            parameter.mul_(1e7 / largest)  # drift takes the outputs over the end of single precision
    given = subject(model)
    short = measured(given, Job(1.5, CHIPS))
    monkeypatch.setattr(module, "_chain", lambda *_: None)
    assert measured(given, Job(1.5, CHIPS)) == short
    measurer = Evaluator(given).measurers.free.get()
    assert any(
        measurer.trials(at_sigma(PAPER, 1.5), 1.5, (chip,), None)
        and given.reference.score(measurer.analog).broken
        for chip in CHIPS
    )  # some are broken indeed


def test_memory_is_one_group_of_chips_whatever_is_asked():
    given = subject(made(mlp))
    evaluator = Evaluator(given)
    measurer = evaluator.measurers.free.get()
    evaluator.measurers.free.put(measurer)
    places = {id(m) for m in measurer.chain.memory}
    evaluator.measure(Job(0.4, tuple(range(40))))
    assert {id(m) for m in measurer.chain.memory} == places
    assert given.reference.block <= BLOCK


REGISTRY: list[nn.Module] = []


class Registered(nn.Sequential):
    """Its forward finds its layer in a global, which is not there in another process."""

    def forward(self, x):
        return REGISTRY[0](x)


def test_a_model_that_is_not_whole_in_another_process_is_refused():
    model = Registered(nn.Linear(4, 3)).eval()
    REGISTRY[:] = [model[0]]
    x = torch.linspace(-1, 1, 40).view(10, 4)
    hardware = Hardware.preset("bayesft", sigma=0.5)
    given = Subject(model, hardware, Reference.of(model, x, None), "agreement", 0)
    there = pickle.dumps(given)
    plain = Subject(model[0], hardware, Reference.of(model[0], x, None), "agreement", 0)
    found, expected = (s.evaluator.measure(Job(0.5, (0,)))[0].value for s in (given, plain))
    assert 0 <= found <= 1
    assert 0 <= expected <= 1
    REGISTRY[:] = [nn.Linear(4, 3).eval()]  # as another process would have it
    with pytest.raises(InputError, match="does not give the outputs here that it gave before"):
        pickle.loads(there).evaluator.measure(Job(0.5, (0,)))
