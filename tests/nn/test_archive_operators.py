"""Operators of archives: what exports of networks contain computes the same; what reads out of bounds does not run."""

import copy
import io
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from helpers import archive_files as files
from torch import nn

from crossbar_sim.data.inputs import Inputs
from crossbar_sim.errors import InputError
from crossbar_sim.nn.files import operator_bounds, trial_evaluation
from crossbar_sim.nn.files.archive import load_archive
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.files.operators import OPERATORS, check_operator
from crossbar_sim.nn.files.size_expressions import check_expression, check_expressions
from crossbar_sim.nn.files.trial_evaluation import FirstRun

X = torch.sin(torch.arange(4 * 64.0)).reshape(4, 1, 8, 8)
A = torch.ops.aten
BIG = 2**40
LEAST = -(2**63)


class Of(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.fc, self.function, self.layers = nn.Linear(64, 10), function, nn.ModuleList(layers)

    def forward(self, x):
        return self.fc(x.flatten(1)) + self.function(x, *self.layers).float().sum() * 0.01


def exported(model):
    return torch.export.export(model.eval(), (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False)


def loaded(program, tmp_path):
    (tmp_path / "m.pt2").write_bytes(files.saved(program))
    return load_model(tmp_path / "m.pt2").module


def _rows(x):
    return x.flatten(1, 2)


def _steps(x):
    """Two only: decomposed, a recurrent layer has the operators of each step."""
    return _rows(x)[:, :2]


LAYERS = {
    "lstm": (lambda x, m: m(_steps(x))[0], lambda: nn.LSTM(8, 6, batch_first=True, bidirectional=True)),
    "lstm, projected": (lambda x, m: m(_steps(x))[0], lambda: nn.LSTM(8, 6, batch_first=True, proj_size=3)),
    "gru": (lambda x, m: m(_steps(x))[0], lambda: nn.GRU(8, 5, 2, batch_first=True, bias=False)),
    "rnn": (lambda x, m: m(_steps(x))[0], lambda: nn.RNN(8, 5, batch_first=True, nonlinearity="relu")),
    "attention": (lambda x, m: m(*[_rows(x)] * 3)[0], lambda: nn.MultiheadAttention(8, 2, batch_first=True)),
    "transformer": (lambda x, m: m(_rows(x)), lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "norms": (
        lambda x, m: m(x.repeat(1, 4, 1, 1)),
        lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4), nn.LayerNorm(8)),
    ),
    "weight norm": (lambda x, m: m(x), lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))),
    "bag": (lambda x, m: m(torch.arange(8), torch.tensor([0, 3, 3])), lambda: nn.EmbeddingBag(9, 4)),
    "embedding of a norm": (lambda x, m: m(torch.arange(8)), lambda: nn.Embedding(9, 4, max_norm=1.0)),
    "unpooling": (lambda x, m: m(*F.max_pool2d(x, 2, return_indices=True)), lambda: nn.MaxUnpool2d(2)),
    "deconvolution": (lambda x, m: m(x), lambda: nn.ConvTranspose2d(1, 2, 3, stride=2, output_padding=1)),
}
FUNCTIONS = {
    "resized": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "resized to a size": lambda x: F.interpolate(x, (5, 13), mode="bicubic"),
    "resized nearest": lambda x: F.interpolate(x, scale_factor=0.3),
    "antialiased": lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear", antialias=True),
    "sampled": lambda x: F.grid_sample(
        x, F.affine_grid(torch.eye(2, 3)[None].repeat(len(x), 1, 1), [len(x), 1, 8, 8], False), align_corners=False
    ),
    "shuffled": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x.reshape(-1, 4, 4, 4), 2), 2),
    "padded": lambda x: F.pad(F.pad(x, (1, 2, 3, 4), "reflect"), (-1, 2)),
    "Fourier": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)).abs() + torch.fft.fft(x).abs(),
    "einsum": lambda x: torch.einsum("bchw,bcwk->bhk", x, x),
    "made": lambda x: torch.arange(8).repeat(2).sum() + torch.zeros(3, 4).sum() + torch.eye(4).sum(),
    "made empty": lambda x: x.new_empty(3) * 0,
    "counted": lambda x: F.one_hot(x.flatten(1).argmax(1) % 5, 5) + torch.bincount(torch.tensor([1, 4])),
    "places": lambda x: x.gather(3, x.argsort(3)) + x.scatter(3, torch.zeros_like(x, dtype=torch.long), 1.0),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "pieces": lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2) + x.roll(1, 2),
    "repeated": lambda x: x.repeat_interleave(3, 1).sum(1, keepdim=True) + x.expand(-1, 3, -1, -1).mean(1, True),
}  # fmt: skip


TOGETHER = ["norms", "weight norm", "bag", "embedding of a norm", "unpooling", "deconvolution"]
EXPORTS = {name: [name] for name in LAYERS if name not in TOGETHER}
EXPORTS |= {"small layers": TOGETHER, "functions": [*FUNCTIONS]}
"""What is in each model: exporting takes longer than the rest, so that what is small shares one."""


class Sums(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.functions = [LAYERS[n][0] if n in LAYERS else FUNCTIONS[n] for n in names]
        self.layers = nn.ModuleList(LAYERS[n][1]() if n in LAYERS else nn.Identity() for n in names)

    def forward(self, x):
        pairs = zip(self.functions, self.layers, strict=True)
        each = [f(x) if isinstance(layer, nn.Identity) else f(x, layer) for f, layer in pairs]
        return torch.stack([y.float().sum() * 0.01 for y in each])


@pytest.mark.parametrize("name", EXPORTS)
def test_layers_and_functions_of_networks_load_and_compute_the_same(name, tmp_path):
    model = Sums(EXPORTS[name])
    program = exported(model)
    with torch.no_grad():
        for each in (program, program.run_decompositions()):
            torch.testing.assert_close(loaded(each, tmp_path)(X), model(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["roi_align", "roi_pool", "ps_roi_align", "nms", "deform_conv2d"])
def test_operators_of_detectors_compute_the_same(name, tmp_path):
    ops = pytest.importorskip("torchvision.ops")
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [3, 1, 1, 9, 6]])
    calls = {
        "roi_align": lambda x: ops.roi_align(x, rois, 2, 0.5),
        "roi_pool": lambda x: ops.roi_pool(x, rois, 2),
        "ps_roi_align": lambda x: ops.ps_roi_align(x.expand(-1, 4, -1, -1), rois, 2),
        "nms": lambda x: ops.nms(rois[:, 1:], torch.tensor([0.3, 0.6]), 0.5),
        "deform_conv2d": lambda x, offsets: ops.deform_conv2d(x, offsets(x), torch.ones(2, 1, 3, 3)),
    }
    model = Of(calls[name], *([nn.Conv2d(1, 18, 3)] if name == "deform_conv2d" else []))
    with torch.no_grad():
        torch.testing.assert_close(loaded(exported(model), tmp_path)(X), model(X), rtol=1e-4, atol=1e-4)


# Operators found in exports, as traced and with run_decompositions(): timm 1.0.31, transformers 5.24 (random weights).
EXPORTED = {
    "timm and torchvision": """
        _adaptive_avg_pool2d _native_batch_norm_legit _native_batch_norm_legit_no_training _weight_norm avg_pool3d
        hardsigmoid_ hardswish_ im2col leaky_relu_ linalg_vector_norm max_pool3d_with_indices native_group_norm roll
        silu_ slice_scatter swapaxes tensor_split unbind upsample_bicubic2d
    """,
    "transformers": """
        __and__ _assert_tensor_metadata _fft_c2c _is_all_true _local_scalar_dense _to_copy acos as_strided bitwise_or
        constant_pad_nd cumsum diff empty_permuted fft_fftn fill_ floor_divide_ fmod histc index_put_ lift_fresh_copy
        masked_fill_ new_ones rms_norm scalar_tensor select_scatter topk unfold view_as_real
    """,
}


@pytest.mark.parametrize("origin", EXPORTED)
def test_operators_of_other_libraries_are_listed(origin):
    assert [name for name in EXPORTED[origin].split() if name not in OPERATORS["aten"]] == []


REFUSED = """
    max_pool2d_with_indices_backward max_pool3d_with_indices_backward adaptive_max_pool2d_backward nll_loss
    nll_loss2d_backward cross_entropy_loss embedding_dense_backward native_layer_norm_backward batch_norm_update_stats
    ctc_loss _ctc_loss mkldnn_rnn_layer mkldnn_linear to_sparse sparse_coo_tensor _sparse_mm _nested_tensor_from_mask
    quantize_per_tensor fbgemm_linear_int8_weight _embedding_bag_backward set_ resize_ as_strided_ resize_as_ from_file
    segment_reduce lu_solve ldl_solve _index_put_impl_ fractional_max_pool2d _cudnn_rnn _fused_dropout data
"""


@pytest.mark.parametrize("name", REFUSED.split())
def test_no_gradients_losses_statistics_or_internals(name):
    packet = getattr(A, name, None)
    which = packet.overloads()[0] if packet is not None else "default"
    with pytest.raises(InputError, match="not among the operators of inference"):
        check_operator(f"torch.ops.aten.{name}.{which}")


@pytest.mark.parametrize("name", ["add.out", "relu.out", "mm.out", "zeros.out"])
def test_overloads_that_resize_a_tensor_for_their_result_are_refused(name):
    with pytest.raises(InputError):
        check_operator(f"torch.ops.aten.{name}")


def _full(shape, value=BIG):
    return torch.full(shape, value, dtype=torch.int64)


FAULTY = {
    "_upsample_bilinear2d_aa.default": ((X, [16, 16], False, 1e-12, 1e-12), "a scale of 1e-12"),
    "_upsample_bicubic2d_aa.default": ((X, [16, 16], False, 0.25, 0.25), "from 8 to 16"),
    "zeros.default": (([2**46],), r"sizes of 7.*e\+13 elements"),
    "max_unpool2d.default": ((torch.ones(1, 1, 2, 2), _full((1, 1, 2, 2), 999), [4, 4]), "places"),
    "one_hot.default": ((torch.tensor([3]), BIG), "1.1e"),
    "repeat.default": ((torch.ones(3), [BIG]), "elements"),
    "arange.default": ((2**45,), "elements"),
    "bincount.default": ((_full((2,)),), "elements"),
    "view.dtype": ((torch.arange(4, dtype=torch.uint8), torch.bool), "truth values"),
    "view_copy.dtype": ((torch.arange(4, dtype=torch.uint8), torch.bool), "truth values"),
    "_fft_r2c.default": ((X, [-2], 0, True), "dimensions"),
    "adaptive_max_pool2d.default": ((X, [BIG, 0]), "elements"),
    "_embedding_bag.default": (
        (torch.ones(9, 4), torch.arange(8), torch.tensor([0]), False, 0, False, None, True, 3), "in order"),
    "embedding_bag.default": ((torch.ones(9, 4), torch.arange(8), _full((0,))), "in order"),
    "col2im.default": ((torch.ones(2, 12, 49), [8, 8], [2, 2], [1, 1], [0, 2**31], [1, 1]), "padding of 2147483648"),
    "div.Scalar_mode": ((_full((2,), LEAST), -1), "quotient"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_arguments_that_torch_does_not_check_are_refused_when_they_are_computed(name):
    arguments, says = FAULTY[name]
    packet, which = name.split(".")
    named = {"rounding_mode": "trunc"} if packet == "div" else {}
    with pytest.raises(InputError, match=says):
        operator_bounds.Checked(getattr(getattr(A, packet), which))(*arguments, **named)


def test_quotients_that_have_a_result_are_computed():
    divided = operator_bounds.Checked(A.div.Tensor_mode)
    assert divided(_full((2,), -7), _full((2,), 2), rounding_mode="trunc").tolist() == [-3, -3]
    assert divided(_full((2,), LEAST), torch.tensor([-1.0, 1]), rounding_mode="trunc").tolist() == [
        2.0**63,
        -(2.0**63),
    ]


def test_no_other_bytes_are_written_to_truth_values():
    truths = torch.tensor([True, False])
    seen = operator_bounds.Checked(A.view.dtype)(truths, torch.uint8)
    assert seen.tolist() == [1, 0]
    seen.fill_(7)
    assert int(truths.sum()) == 1


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "rois"),
    [
        ("roi_align", [[1e9, 0, 0, 4, 4]]), ("roi_align", [[-1.0, 0, 0, 4, 4]]), ("roi_align", [[0, NAN, 0, 4, 4]]),
        ("roi_align", [[NAN, 0, 0, 4, 4]]), ("roi_align", [[0, 0, 0, 1e12, 4]]), ("roi_pool", [[4.0, 0, 0, 4, 4]]),
        ("roi_align", [[0.0, 1.0]]), ("ps_roi_align", [[7.0, 0, 0, 4, 4]]),
        ("roi_align", [[0.0, 0, 0, 131072, 131072]]),  # 2**32 samples, counted in 32 bits as none
    ],
)  # fmt: skip
def test_regions_outside_of_the_batch_or_too_large_are_refused(name, rois):
    pytest.importorskip("torchvision")
    operator = getattr(torch.ops.torchvision, name).default
    x, rois = X.expand(-1, 4, -1, -1).contiguous(), torch.tensor(rois)
    rest = {"roi_align": (1.0, 2, 2, 0, False), "roi_pool": (1.0, 2, 2), "ps_roi_align": (1.0, 2, 2, 1)}[name]
    with pytest.raises(InputError, match="region"):
        operator_bounds.Checked(operator)(x, rois, *rest)


def test_weights_of_other_sizes_never_reach_the_kernel_of_a_recurrent_layer():
    lstm, x = nn.LSTM(8, 6), _rows(X)
    state = [torch.zeros(1, 8, 6)] * 2
    checked = operator_bounds.Checked(A.lstm.input)
    good = [*lstm._flat_weights]
    checked(x, state, good, True, 1, 0.0, False, False, False)
    for bad in (
        [good[0][:, :4], *good[1:]],
        good[:2],
        [*good[:2], good[2][:3], good[3]],
        [w.double() for w in good],
    ):
        with pytest.raises(InputError, match=r"weights|types"):
            checked(x, state, bad, True, 1, 0.0, False, False, False)
    with pytest.raises(InputError, match="states"):  # of another batch
        checked(x, [s[:, :3] for s in state], good, True, 1, 0.0, False, False, False)


def test_lengths_of_another_shape_never_reach_the_kernel_of_weight_norm():
    with pytest.raises(InputError, match="lengths"):
        operator_bounds.Checked(A._weight_norm.default)(torch.ones(1, 2), torch.tensor(2.0), 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda node: node["inputs"].append(dict(node["inputs"][0])), "twice"),
        (lambda node: node.update(target="torch.ops.aten.clone.default", inputs=[
            node["inputs"][0], {"name": "memory_format", "arg": {"as_int": 77}, "kind": 2}]), "memory_format"),
        (lambda node: node.update(target="torch.ops.aten.to.dtype_layout", inputs=[
            node["inputs"][0], {"name": "layout", "arg": {"as_layout": 1}, "kind": 2}]), "as_layout"),
        (lambda node: node["inputs"].pop(0) and node["inputs"][0].update(kind=1), "does not write it"),
    ],
)  # fmt: skip
def test_arguments_stand_where_they_are_named(change, says):
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))
    edited = files.edited(members, files.GRAPH, lambda p: change(p["graph_module"]["graph"]["nodes"][0]))
    with pytest.raises(InputError, match=says):
        _load(files.packed(edited))


def _load(content):
    return load_archive(content)


def _old(weights):
    """An archive of torch 2.8, whose weights are a pickled table."""
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))
    kept = {n: c for n, c in members.items() if "weight" not in n and "constants" not in n}
    for folder, table in (("weights", weights), ("constants", {"factor": torch.ones(1)})):
        buffer = io.BytesIO()
        torch.save(table, buffer)
        kept[f"archive/data/{folder}/model.pt"] = buffer.getvalue()
    return files.packed(kept)


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.tensor([0, 7], dtype=torch.uint8).view(torch.bool),
        torch.tensor([0, 7], dtype=torch.uint8).view(torch.bool)[:1],
        torch.ones(1).expand(2**40),
    ],
    ids=["sparse", "quantised", "bytes as truth values", "bytes behind truth values", "expanded"],
)
def test_pickled_weights_of_older_torch_are_dense_and_as_large_as_they_say(value):
    with pytest.raises(InputError, match="not a table of dense tensors"):
        _load(_old({"fc.weight": torch.ones(3, 4), "fc.bias": value}))


class Ends(nn.Module):
    """Does something to the process that is not the caller's."""

    def __init__(self, how):
        super().__init__()
        self.how, self.caller, self.runs = how, os.getpid(), 0

    def forward(self, x):
        self.runs += 1
        if os.getpid() != self.caller:
            self.how()
        return x


def tried(how):
    model = Ends(how)
    trial_evaluation.try_first(model)
    return model


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crashes torch .*SIGSEGV"),
        (lambda: os._exit(7), "crashes torch .*exit 7"),
        (lambda: torch.ones(1).expand(2**45).exp(), "more memory .* than is available"),
        (lambda: time.sleep(60), "does not end"),
    ],
)
def test_what_happens_to_the_child_is_one_line_and_the_caller_goes_on(how, says, monkeypatch):
    monkeypatch.setattr(trial_evaluation, "STALLED", 0.5)
    monkeypatch.setattr(trial_evaluation, "_in_new_interpreter", lambda model, inputs, failure: failure)
    model = tried(how)
    for _ in range(2):  # a second call is no way around it
        with pytest.raises(InputError, match=says) as caught:
            model(X)
        assert "\n" not in str(caught.value)
    assert model.runs == 0


HERE: list[int] = []
"""The process of the test below; a new interpreter, which imports this file, finds it empty."""


class Waits(nn.Module):
    """Waits in a fork of that process, as for a lock that one of its threads holds."""

    def forward(self, x):
        while HERE and os.getpid() not in HERE:
            time.sleep(60)
        return x


def test_a_fork_that_cannot_go_on_says_nothing_of_the_model(monkeypatch):
    second, results = trial_evaluation._in_new_interpreter, []
    monkeypatch.setattr(
        trial_evaluation, "_in_new_interpreter", lambda *given: results.append(second(*given))
    )
    monkeypatch.setattr(trial_evaluation, "STALLED", 1.0)
    monkeypatch.setitem(globals(), "HERE", [os.getpid()])
    with ThreadPoolExecutor(1) as pool:  # from a thread, as on a Dask worker
        pool.submit(trial_evaluation._try, Waits(), Inputs((X,))).result()
    assert results == [None]


def test_a_child_is_over_when_it_says_so_whoever_else_holds_its_pipe(monkeypatch):
    """As a child does that another thread forks at that moment."""
    pipe, held = os.pipe, []

    def kept():
        reader, writer = pipe()
        held.append(os.dup(writer))
        return reader, writer

    monkeypatch.setattr(os, "pipe", kept)
    later = threading.Timer(20, lambda: [os.close(writer) for writer in held])
    later.start()
    began = time.monotonic()
    assert trial_evaluation._forked(Ends(lambda: None), Inputs((X,))) is None
    assert trial_evaluation._forked(Ends(lambda: os._exit(7)), Inputs((X,))) == "exit 7"
    assert time.monotonic() - began < 15
    later.function()
    later.cancel()


def test_any_arguments_of_a_call_are_tried():
    class Sum(torch.nn.Module):
        def forward(self, x, shift, scale):
            return (x + shift) * scale

    given = (torch.ones(6, 3), torch.arange(3.0), torch.tensor(2.0))
    model = Sum()
    trial_evaluation.try_first(model)
    assert torch.equal(model(*given), (given[0] + given[1]) * 2)
    (hook,) = model._forward_pre_hooks.values()
    assert hook.done


def test_a_file_is_tried_once_per_process_copies_included():
    model = tried(lambda: None)
    twin = copy.deepcopy(model)
    assert torch.equal(model(X), X)
    hook = next(iter(twin._forward_pre_hooks.values()))
    assert isinstance(hook, FirstRun)
    assert hook.done
    twin.how = lambda: os._exit(7)
    assert torch.equal(twin(X), X)


def test_errors_of_the_graph_are_raised_here():
    def fails():
        raise ValueError("for a batch of 4")

    model = tried(fails)
    assert torch.equal(model(X), X)


@pytest.mark.parametrize(
    "expression",
    [
        "Max(s0, Max(s1, Max(s2, Max(s3, Max(s4, Max(s5, Max(s6, s7)))))))",
        "Max(1, s0)*Max(2, s1)*Max(3, s2)*Max(4, s3)*Max(5, s4)*Max(6, s5)*Max(7, s6)",
        "ModularIndexing(" * 7 + "s0" + ", 3, 5)" * 7,
        "+".join(f"s{i}" for i in range(9)),
        "*".join(["(s0+1)**8"] * 7),
        "-" * 70 + "s0",
        "+".join(["s0*s1"] * 60),
    ],
)
def test_expressions_that_would_take_for_ever_are_refused(expression):
    with pytest.raises(InputError, match="take for ever"):
        check_expression(expression)


def test_expressions_are_limited_in_all():
    many = [{"expr_str": f"s0 + {i}"} for i in range(3000)]
    with pytest.raises(InputError, match="3000 different size expressions"):
        check_expressions({"graph": [many]})
    check_expressions({"graph": [many[:20] * 500]})


def test_tensors_that_few_bytes_stand_for_are_limited_in_all():
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))

    def change(config):
        entry = config["config"]["fc.weight"]
        meta = {**entry["tensor_meta"], "sizes": [{"as_int": 2**22}], "strides": [{"as_int": 0}]}
        config["config"] |= {f"w{i}": {**entry, "tensor_meta": meta} for i in range(8)}

    with pytest.raises(InputError, match="damaged"):
        _load(files.packed(files.edited(members, files.WEIGHTS, change)))
