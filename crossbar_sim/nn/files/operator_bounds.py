"""Checks of operator arguments that torch does not check itself, at every run of an archive's graph.

Each of these operators would read or write outside of its tensors, or fill all memory, with arguments that no export
of a network has. In the graph a `Checked` takes its place, which looks at the arguments and then calls it.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from crossbar_sim.errors import InputError

_LARGEST_SIDE = 1 << 20
"""Pixels of a region's side: larger ones would be sampled for ever."""

_MOST_SAMPLES = 1 << 26
"""Of a region: `roi_align` makes a table of them, whose length it counts in 32 bits."""

Arguments = Mapping[str, Any]


class Checked:
    """An operator that checks its arguments first. It prints as the operator, which is how graphs are read."""

    def __init__(self, operator: torch._ops.OpOverload) -> None:
        self.operator = operator
        self.__name__, self.__module__ = operator.__name__.replace(".", "_"), __name__
        self.packet = operator._schema.name.partition("::")[2]
        self.called: Callable[..., Any] = _CALLED_INSTEAD.get(operator, operator)
        self.names = [argument.name for argument in operator._schema.arguments]
        self.defaults = {a.name: a.default_value for a in operator._schema.arguments if a.has_default_value()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The operator's result.

        Raises:
            InputError: if its arguments do not fit each other.
        """
        given = {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}
        for check in _CHECKS[self.packet]:
            try:
                wrong = check(given)
            except (TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
                wrong = f"arguments of other kinds than it takes ({type(error).__name__})"
            if wrong:
                raise InputError(
                    f"the archive's graph calls {self} with {wrong}: the file is damaged or made to do so, or a size "
                    "was worked out from values that are not finite; export the model again"
                )
        y = self.called(*args, **kwargs)
        return y.zero_() if self.packet in _EMPTY else y

    def __str__(self) -> str:
        return str(self.operator)

    __repr__ = __str__

    def __deepcopy__(self, memo: dict[int, Any]) -> "Checked":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Checked, (self.operator,)


def guard(module: fx.GraphModule) -> None:
    """Replace each operator that needs it by `Checked`, in a graph and in those nested in it."""
    for each in module.modules():
        if not isinstance(each, fx.GraphModule):
            continue
        for node in each.graph.nodes:
            target = node.target
            if (
                isinstance(target, torch._ops.OpOverload)
                and target._schema.name.partition("::")[2] in _CHECKS
            ):
                node.target = Checked(target)
        each.recompile()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 36


_MOST = _memory() // 4
"""Elements of a tensor that a graph may make: of four bytes, this machine's memory."""


def _too_many(*sizes: Any) -> str | None:
    count = math.prod(max(int(size), 0) for size in sizes)
    largest = max(
        (int(size) for size in sizes), default=0
    )  # of no elements in all, it is still counted up to
    return f"sizes of {max(count, largest):.3g} elements in all" if max(count, largest) > _MOST else None


def _sizes(name: str) -> Callable[[Arguments], str | None]:
    return lambda given: _too_many(*given[name])


def _count(*names: str) -> Callable[[Arguments], str | None]:
    return lambda given: _too_many(*(given[name] for name in names if given.get(name) is not None))


def _arange(given: Arguments) -> str | None:
    start, end, step = given.get("start", 0), given["end"], given.get("step", 1)
    return "a step of 0" if not step else _too_many(abs(end - start) / abs(step))


def _repeats(name: str) -> Callable[[Arguments], str | None]:
    return lambda given: _too_many(given["self"].numel(), *given[name])


def _interleaved(given: Arguments) -> str | None:
    repeats = given["repeats"]
    if "self" not in given:  # the places of a count
        return _too_many(int(repeats.sum()))
    if isinstance(repeats, Tensor):
        total = int(repeats.sum()) if repeats.numel() > 1 else int(repeats.sum()) * given["self"].numel()
        return "a negative count" if bool((repeats < 0).any()) else _too_many(total, given["self"].numel())
    return _too_many(given["self"].numel(), repeats)


def _padded(name: str) -> Callable[[Arguments], str | None]:
    def check(given: Arguments) -> str | None:
        sizes, pad = list(given["self"].shape), list(given[name])
        for i in range(len(pad) // 2):
            sizes[-1 - i] += pad[2 * i] + pad[2 * i + 1]
        return _too_many(*sizes)

    return check


def _near(*names: str) -> Callable[[Arguments], str | None]:
    """Lengths of windows, steps and borders: kernels count places with them in 32 bits."""

    def check(given: Arguments) -> str | None:
        for name in names:
            values = given.get(name)
            for value in values if isinstance(values, list | tuple) else [values or 0]:
                if abs(int(value)) > _LARGEST_SIDE:
                    return f"a {name} of {int(value)}"
        return None

    return check


def _one_hot(given: Arguments) -> str | None:
    x, classes = given["self"], given.get("num_classes", -1)
    classes = int(x.max()) + 1 if classes < 0 and x.numel() else classes
    return _too_many(x.numel(), classes)


def _bincount(given: Arguments) -> str | None:
    x = given["self"]
    return _too_many(max(int(x.max()) + 1 if x.numel() else 0, given.get("minlength", 0)))


def _combinations(given: Arguments) -> str | None:
    n, r = len(given["self"]), given.get("r", 2)
    return _too_many(n**r if r < 64 else math.inf)


def _resampled(given: Arguments) -> str | None:
    """The size of the output, and scales that lead from the input's to it."""
    x, size = given.get("input", given.get("self")), given.get("output_size")
    spatial = x.shape[2:]
    scales = given.get("scale_factors") or [given.get(name) for name in ("scales_d", "scales_h", "scales_w")]
    if "scales" in given:
        scales = [given["scales"]]
    scales = list(scales)[-len(spatial) :] if size is not None else list(scales)
    for i, scale in enumerate(scales):
        if scale is None:
            continue
        if not 1e-6 <= scale <= 1e6:
            return f"a scale of {scale:g}"
        side = spatial[i - len(scales)]
        if size is not None and abs(size[i - len(scales)] - side * scale) > 1 + 1e-3 * side * scale:
            return f"a scale of {scale:g} from {side} to {size[i - len(scales)]}"
    out = size if size is not None else [s * f for s, f in zip(spatial, scales, strict=True)]
    return _too_many(*x.shape[:2], *out) or ("an input of no size" if 0 in x.shape[1:] else None)


def _regions(given: Arguments) -> str | None:
    """Regions (k, 5) of images (n, c, h, w): a number of the image, and two corners."""
    x, rois = given["input"], given["rois"]
    if x.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5 or x.dtype != rois.dtype:
        return f"images {tuple(x.shape)} and regions {tuple(rois.shape)}"
    high, wide = int(given["pooled_height"]), int(given["pooled_width"])
    scale, samples = float(given["spatial_scale"]), int(given.get("sampling_ratio", 0))
    if (
        not (1 <= high <= 4096 and 1 <= wide <= 4096 and samples <= 4096 and 0 < scale < 1e6)
        or 0 in x.shape[1:]
    ):
        return f"{high} x {wide} bins, {samples} samples in each and a scale of {scale:g}"
    if len(rois):
        number = rois[:, 0]
        if not bool(((number >= 0) & (number < len(x)) & (number == number.floor())).all()):
            return f"a region of image {float(number.max()):g} of {len(x)}"
        if not bool((rois[:, 1:].abs() * scale <= _LARGEST_SIDE).all()):  # neither is nan
            return f"a region's side beyond {_LARGEST_SIDE} pixels, or not finite"
        if "sampling_ratio" in given:
            across, down = ((rois[:, i + 2] - rois[:, i]).abs().double() * scale for i in (1, 2))
            most = float(((down / high + 1) * (across / wide + 1)).max()) if samples <= 0 else samples**2
            if most * high * wide > _MOST_SAMPLES:
                return f"{most * high * wide:.3g} samples of a region"
    return _too_many(len(rois), x.shape[1], high, wide)


def _by_position(given: Arguments) -> str | None:
    bins = int(given["pooled_height"]) * int(given["pooled_width"])
    channels = given["input"].shape[1]
    return None if channels % bins == 0 else f"{channels} channels for {bins} bins"


def _deformed(given: Arguments) -> str | None:
    x, weight, offset, mask = (given[name] for name in ("input", "weight", "offset", "mask"))
    counts = [
        int(given[name])
        for name in ("stride_h", "stride_w", "dilation_h", "dilation_w", "groups", "offset_groups")
    ]
    if (
        min(counts) < 1
        or max(counts) > 1 << 16
        or not all(t.dim() == 4 and t.numel() for t in (x, weight, offset))
    ):
        return f"strides, dilations and groups of {counts}"
    pads = int(given["pad_h"]), int(given["pad_w"])
    if min(pads) < 0 or max(pads) > 1 << 16 or any(t.dtype != x.dtype for t in (weight, offset, mask)):
        return f"a padding of {pads}, or tensors of several types"
    # Beyond the image samples are zero; nan would be taken for a place inside.
    return None if bool((offset.abs() < _LARGEST_SIDE).all()) else "offsets that are not finite"


def _boxes(given: Arguments) -> str | None:
    boxes, scores = given["dets"], given["scores"]
    fits = boxes.dim() == 2 and boxes.shape[1] == 4 and scores.shape == boxes.shape[:1]
    return None if fits else f"boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)}"


def _transformed(given: Arguments) -> str | None:
    x, dims = given["self"], list(given["dim"])
    if (
        not dims
        or not all(0 <= d < x.dim() for d in dims)  # the kernels take no others
        or len(set(dims)) < len(dims)
        or not 0 <= given["normalization"] <= 2
    ):
        return f"dimensions {dims} of {x.dim()}"
    last = given.get("last_dim_size")
    if last is not None and not (x.shape[dims[-1]] == last // 2 + 1 and last > 0):
        return f"{last} values from {x.shape[dims[-1]]}"
    return None if x.numel() else "an empty tensor"


def _statistics(given: Arguments) -> str | None:
    """Batch normalisation: per channel one number each, and statistics unless the batch's own are used."""
    x = given["input"]
    if x.dim() < 2 or not x.is_floating_point():
        return f"an input {tuple(x.shape)}"
    channels = x.shape[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = given.get(name)
        if value is not None and tuple(value.shape) != (channels,):
            return f"{name} {tuple(value.shape)} for {channels} channels"
    own = given.get("training", False)
    return None if own or given.get("running_mean") is not None else "no statistics"


def _grouped(given: Arguments) -> str | None:
    x, n, c, rest, groups = (given[name] for name in ("input", "N", "C", "HxW", "group"))
    if (
        x.dim() < 2
        or x.shape[0] != n
        or x.shape[1] != c
        or n * c * rest != x.numel()
        or groups < 1
        or c % groups
    ):
        return f"an input {tuple(x.shape)} as {n} x {c} x {rest} in {groups} groups"
    sizes = [tuple(given[name].shape) for name in ("weight", "bias") if given.get(name) is not None]
    return None if all(size == (c,) for size in sizes) else f"weights {sizes} for {c} channels"


def _weight_norm(given: Arguments) -> str | None:
    v, g, dim = given["v"], given["g"], given.get("dim", 0)
    if v.dtype != g.dtype or not v.numel() or not -v.dim() <= dim < v.dim():
        return f"weights {tuple(v.shape)} and dimension {dim}"
    dim %= v.dim()
    each = tuple(n if i == dim else 1 for i, n in enumerate(v.shape))
    fits = tuple(g.shape) == each or (given.get("dim", 0) == -1 and g.numel() == 1)
    return None if fits else f"lengths {tuple(g.shape)}, where {each} fit"


def _bags(given: Arguments) -> str | None:
    """`embedding_bag`: rows that exist, and bags that begin in order."""
    weight, indices, offsets = (given[name] for name in ("weight", "indices", "offsets"))
    if weight.dim() != 2 or indices.is_floating_point() or offsets.is_floating_point():
        return f"weights {tuple(weight.shape)}"
    if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < len(weight)):
        return f"rows {int(indices.min())} to {int(indices.max())} of {len(weight)}"
    if indices.dim() == 1 and (offsets.numel() or indices.numel()):
        flat, last = offsets.flatten(), bool(given.get("include_last_offset"))
        count = indices.numel()
        ordered = (
            len(flat) > last and int(flat[0]) == 0 and bool((flat.diff() >= 0).all()) and int(flat[-1]) <= count
        )  # fmt: skip
        if not ordered or (last and int(flat[-1]) != count):
            return "bags that do not begin in order"
    each = given.get("per_sample_weights")
    if each is None or (each.shape == indices.shape and each.dtype == weight.dtype):
        return None
    return f"weights {tuple(each.shape)} of samples {tuple(indices.shape)}"


def _rows(given: Arguments) -> str | None:
    weight, indices = given["self"], given["indices"]
    if weight.dim() != 2 or not indices.numel():
        return None
    inside = int(indices.min()) >= 0 and int(indices.max()) < len(weight)
    return None if inside else f"rows {int(indices.min())} to {int(indices.max())} of {len(weight)}"


def _unpooled(given: Arguments) -> str | None:
    x, places, size = given["self"], given["indices"], given["output_size"]
    if x.shape != places.shape or places.dtype != torch.int64:
        return f"values {tuple(x.shape)} at places {tuple(places.shape)}"
    if many := _too_many(*x.shape[: -len(size)], *size):
        return many
    inside = not places.numel() or (int(places.min()) >= 0 and int(places.max()) < math.prod(size))
    return None if inside else f"places outside of {tuple(size)}"


def _recurrent(gates: int) -> Callable[[Arguments], str | None]:
    """The weights of a recurrent layer, whose sizes its kernel takes from the first of them."""

    def check(given: Arguments) -> str | None:
        x, states = given.get("input", given.get("data")), given["hx"]
        params, bias = given["params"], bool(given["has_biases"])
        state = list(states) if isinstance(states, list | tuple) else [states]
        ways, layers = 1 + bool(given["bidirectional"]), int(given["num_layers"])
        lstm = gates == 4
        each = (4 if bias else 2) + (lstm and len(params) == layers * ways * (5 if bias else 3))
        if layers < 1 or len(params) != layers * ways * each or len(state) != 1 + lstm:
            return f"{len(params)} weights for {layers} layers"
        if any(t.dtype != x.dtype for t in (*params, *state)) or not x.is_floating_point():
            return "tensors of several types"
        if not all(t.numel() for t in (x, *params)):
            return "empty tensors"
        count = layers * ways
        if "batch_sizes" in given:  # packed sequences, the longest first
            sizes = given["batch_sizes"]
            batch = int(sizes[0]) if sizes.dim() == 1 and sizes.numel() else 0
            ordered = batch > 0 and bool((sizes >= 1).all()) and bool((sizes.diff() <= 0).all())
            if x.dim() != 2 or not ordered or int(sizes.sum()) != len(x):
                return f"an input {tuple(x.shape)} as sequences of other lengths"
        elif x.dim() != 3:
            return f"an input {tuple(x.shape)}"
        else:
            batch = x.shape[0 if given["batch_first"] else 1]
        if any(s.dim() != 3 or tuple(s.shape[:2]) != (count, batch) for s in state):
            return f"states {[tuple(s.shape) for s in state]} of {count} layers and {batch} sequences"
        hidden, out = params[0].shape[0] // gates, state[0].shape[-1]
        if any(s.shape[-1] != hidden for s in state[1:]):
            return f"states {[tuple(s.shape) for s in state]}"
        for i in range(layers * ways):
            rows = params[i * each : (i + 1) * each]
            taken = x.shape[-1] if i < ways else out * ways
            wanted = [(gates * hidden, taken), (gates * hidden, out)] + [(gates * hidden,)] * (2 * bias)
            wanted += [(out, hidden)] * (each - len(wanted))
            if [tuple(r.shape) for r in rows] != wanted:
                return f"weights {[tuple(r.shape) for r in rows]}, where {wanted} fit"
        return None if out == hidden or each % 2 else f"states of {out} for {hidden}"

    return check


def _attention(given: Arguments) -> str | None:
    q, k, v = given["query"], given["key"], given["value"]
    fits = (
        q.dim() == k.dim() == v.dim() >= 2 and q.dtype == k.dtype == v.dtype and q.is_floating_point()
        and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2] and q.numel() and k.numel() and v.numel()
    )  # fmt: skip
    return None if fits else f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)}"


def _flash(given: Arguments) -> str | None:
    q, k, v = given["query"], given["key"], given["value"]
    same = q.dim() == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2] and q.shape[-1] == v.shape[-1]
    return None if same else f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)}"


def _heads(given: Arguments) -> str | None:
    """The layers of transformers that are one operator: all of one width."""
    width, heads = int(given["embed_dim"]), int(given.get("num_head", given.get("num_heads", 1)))
    x = given.get("query", given.get("src"))
    if width < 1 or heads < 1 or width % heads or x.dim() != 3 or x.shape[-1] != width or not x.numel():
        return f"inputs {tuple(x.shape)}, a width of {width} and {heads} heads"
    sizes = {
        "qkv_weight": (3 * width, width), "qkv_bias": (3 * width,), "proj_weight": (width, width),
        "proj_bias": (width,),
    }  # fmt: skip
    sizes |= {f"norm_{kind}_{i}": (width,) for kind in ("weight", "bias") for i in (1, 2)}
    if "ffn_weight_1" in given:
        inner = len(given["ffn_weight_1"])
        sizes |= {
            "ffn_weight_1": (inner, width), "ffn_bias_1": (inner,), "ffn_weight_2": (width, inner),
            "ffn_bias_2": (width,),
        }  # fmt: skip
    for name, size in sizes.items():
        if name in given and (tuple(given[name].shape) != size or given[name].dtype != x.dtype):
            return f"{name} {tuple(given[name].shape)}, where {size} fits"
    if any(given[name].shape != x.shape for name in ("key", "value") if name in given):
        return "keys and values of other sizes"
    return None


def _same_type(given: Arguments) -> str | None:
    """`masked_scatter`: of the values and of what they are written to."""
    return None if given["self"].dtype == given["source"].dtype else "values of another type"


def _no_bool(given: Arguments) -> str | None:
    """Refuse booleans: bytes other than 0 and 1 would be counted with their value."""
    return "bytes read as truth values" if given.get("dtype") == torch.bool else None


def _quotient(given: Arguments) -> str | None:
    """The smallest integer has no positive counterpart, and the processor stops at its quotient by -1."""
    x, y = given["self"], given["other"]
    whole = not any(v.is_floating_point() or v.is_complex() if isinstance(v, Tensor) else isinstance(v, float)
                    for v in (x, y))  # fmt: skip
    if given.get("rounding_mode") != "trunc" or not whole:
        return None
    dtype = torch.result_type(x, y)
    if dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        return None
    least = torch.iinfo(dtype).min
    both = (torch.as_tensor(x) == least) & (torch.as_tensor(y) == -1)
    return f"a quotient of {least} and -1" if bool(both.any()) else None


_EMPTY = frozenset(["empty", "empty_like", "empty_permuted", "new_empty"])


def _bytes(self: Tensor, dtype: torch.dtype) -> Tensor:
    """`view.dtype`. Truth values are copied, or other bytes than 0 and 1 could be written to them through the view."""
    return torch.ops.aten.view.dtype(self.clone() if self.dtype == torch.bool else self, dtype)  # type: ignore


_CALLED_INSTEAD: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._unsafe_index.Tensor: torch.ops.aten.index.Tensor,
    torch.ops.aten._unsafe_index_put.default: torch.ops.aten.index_put.default,
    torch.ops.aten.view.dtype: _bytes,
}
"""The same with bounds checked."""

_TABLE: tuple[tuple[str, tuple[Callable[[Arguments], str | None], ...]], ...] = (
    ("empty full ones rand randn randint zeros new_empty new_full new_ones new_zeros", (_sizes("size"),)),
    ("empty_permuted", (_sizes("size"),)),
    ("empty_like _unsafe_index _unsafe_index_put", ()),
    ("bartlett_window blackman_window hamming_window hann_window kaiser_window", (_count("window_length"),)),
    ("linspace logspace", (_count("steps"),)),
    ("tril_indices triu_indices", (_count("row", "col"),)),
    ("eye fft_fftfreq fft_rfftfreq randperm", (_count("n", "m"),)),
    ("histc", (_count("bins"),)),
    ("multinomial", (_count("num_samples"),)),
    ("nonzero_static", (_count("size"),)),
    ("vander", (_count("N"),)),
    ("arange", (_arange,)),
    ("repeat", (_repeats("repeats"),)),
    ("tile", (_repeats("dims"),)),
    ("repeat_interleave", (_interleaved,)),
    ("constant_pad_nd pad", (_padded("pad"),)),
    ("reflection_pad1d reflection_pad2d reflection_pad3d", (_padded("padding"),)),
    ("replication_pad1d replication_pad2d replication_pad3d", (_padded("padding"),)),
    ("one_hot", (_one_hot,)),
    ("bincount", (_bincount,)),
    ("combinations", (_combinations,)),
    ("view view_copy", (_no_bool,)),
    ("div div_ divide divide_", (_quotient,)),
    ("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", (_sizes("output_size"),)),
    ("_adaptive_avg_pool2d _adaptive_avg_pool3d", (_sizes("output_size"),)),
    ("col2im", (_sizes("output_size"), _near("kernel_size", "dilation", "padding", "stride"))),
    ("max_pool1d", (_near("kernel_size", "stride", "padding", "dilation"),)),
    ("im2col", (_near("kernel_size", "dilation", "padding", "stride"),)),
    ("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", (_sizes("output_size"),)),
    ("upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_trilinear3d", (_resampled,)),
    ("upsample_nearest1d upsample_nearest2d upsample_nearest3d", (_resampled,)),
    ("_upsample_bicubic2d_aa _upsample_bilinear2d_aa", (_resampled,)),
    ("_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d", (_resampled,)),
    ("roi_align roi_pool", (_regions,)),
    ("ps_roi_align ps_roi_pool", (_regions, _by_position)),
    ("deform_conv2d", (_deformed,)),
    ("nms", (_boxes,)),
    ("_fft_c2c _fft_c2r _fft_r2c", (_transformed,)),
    ("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training", (_statistics,)),
    ("native_group_norm", (_grouped,)),
    ("_weight_norm _weight_norm_interface", (_weight_norm,)),
    ("embedding_bag _embedding_bag _embedding_bag_forward_only", (_bags,)),
    ("embedding_renorm embedding_renorm_", (_rows,)),
    ("max_unpool2d max_unpool3d", (_unpooled,)),
    ("lstm", (_recurrent(4),)),
    ("gru", (_recurrent(3),)),
    ("rnn_tanh rnn_relu", (_recurrent(1),)),
    ("_scaled_dot_product_attention_math scaled_dot_product_attention", (_attention,)),
    ("_scaled_dot_product_flash_attention_for_cpu", (_attention, _flash)),
    ("_native_multi_head_attention _transformer_encoder_layer_fwd", (_heads,)),
    ("masked_scatter masked_scatter_", (_same_type,)),
)

_CHECKS = {name: checks for names, checks in _TABLE for name in names.split()}
"""What is checked, by the operator's name."""
