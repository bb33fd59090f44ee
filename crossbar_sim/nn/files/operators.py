"""Operators that an exported graph may call: a list of what inference uses, by family, and nothing else.

torch resolves an operator's name by walking attributes from the `torch` module, so that a file may name
`torch.os.system`. Its verifier stops that one, but not `aten.from_file` and `aten.save`, which open files, nor
operators that trust their caller with bounds and read or write outside of their tensors if a file calls them with
other arguments than torch does (`max_pool2d_with_indices_backward`, `mkldnn_rnn_layer`, `resize_`). So a name must be
in the tables below. They hold the operators that exported networks contain, as traced and decomposed: no gradients,
no losses, no statistics that are updated, no sparse, nested or quantised tensors, and no operators of one backend's
library. Listed operators that do not check all their arguments are checked by `operator_bounds`.
"""

import importlib
import re
from typing import Any

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.text import words

# What the serialiser itself writes for arithmetic on sizes and for picking one of several outputs.
_SIZE_OPERATORS = words(
    """
    _operator.eq _operator.ne _operator.le _operator.ge _operator.lt _operator.gt _operator.neg
    _operator.pos _operator.mul _operator.add _operator.sub _operator.floordiv _operator.mod
    _operator.truediv _operator.and_ _operator.or_ _operator.lshift _operator.rshift
    _operator.getitem torch.sym_not torch.sym_int torch.sym_float torch.sym_ite torch.sym_max
    torch.sym_min torch.sym_sqrt torch.sym_sum math.trunc math.floor math.ceil _operator.pow
    """
)

# Each runs a nested graph, which is checked like the outer one. `torch.no_grad()` becomes the
# first.
_HIGHER_ORDER = words(
    """
    torch.ops.higher_order.wrap_with_set_grad_enabled torch.ops.higher_order.wrap_with_autocast
    torch.ops.higher_order.cond
    """
)

# One number from one or two, at each place of a tensor.
_ELEMENTWISE = words(
    """
    abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin
    asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    ceil clamp clamp_max clamp_min clip complex conj conj_physical copysign cos cosh deg2rad digamma div divide eq
    erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac gcd ge greater
    greater_equal gt heaviside hypot i0 imag isclose isfinite isinf isnan isneginf isposinf isreal lcm ldexp le lerp
    less less_equal lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor
    logit lt maximum minimum mul multiply nan_to_num ne neg negative not_equal polar positive pow rad2deg real
    reciprocal remainder resolve_conj resolve_neg round rsqrt rsub sgn sigmoid sign signbit sin sinc sinh sqrt
    square sub subtract tan tanh true_divide trunc view_as_complex view_as_real where xlogy
    special_entr special_erf special_erfc special_erfinv special_exp2 special_expit special_expm1 special_gammaln
    special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logit special_ndtr
    special_ndtri special_psi special_round special_sinc special_xlog1py special_xlogy
    __and__ __or__ __xor__ __lshift__ __rshift__
    """
)

_ACTIVATIONS = words(
    """
    _log_softmax _prelu_kernel _safe_softmax _softmax celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh
    leaky_relu log_sigmoid log_sigmoid_forward log_softmax mish prelu relu relu6 rrelu selu silu softmax softplus
    softshrink special_log_softmax special_softmax threshold
    """
)

# Sums, means, extremes, orders and norms, over all of a tensor or along some of its dimensions.
_REDUCTIONS = words(
    """
    _cdist_forward _is_all_true _is_any_true all allclose amax amin aminmax any argmax argmin argsort bincount
    bucketize cdist cosine_similarity count_nonzero cummax cummin cumprod cumsum diff dist equal histc kthvalue
    linalg_matrix_norm linalg_norm linalg_vector_norm logcumsumexp logsumexp max mean median min mode msort nanmean
    nanmedian nanquantile nansum norm nuclear_norm pairwise_distance pdist prod quantile searchsorted sort
    special_logsumexp std std_mean sum topk trace trapezoid trapz var var_mean
    """
)

# Other forms of the same values: views, copies, types, pieces and their joining.
_SHAPES = words(
    """
    _conj _reshape_alias _reshape_copy _to_copy _unsafe_view adjoint alias alias_copy as_strided as_strided_copy
    as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat
    channel_shuffle chunk clone column_stack combinations concat concatenate constant_pad_nd contiguous copy copy_
    detach detach_ detach_copy diag diag_embed diagonal diagonal_copy diagonal_scatter dsplit dstack expand expand_as
    expand_copy flatten flip fliplr flipud hsplit hstack item lift lift_fresh lift_fresh_copy linalg_diagonal
    _local_scalar_dense mH mT matrix_H meshgrid moveaxis movedim narrow narrow_copy native_channel_shuffle numpy_T
    pad permute permute_copy pixel_shuffle pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d
    repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90
    row_stack select select_copy select_scatter slice slice_copy slice_scatter split split_copy split_with_sizes
    split_with_sizes_copy squeeze squeeze_ squeeze_copy stack swapaxes swapdims sym_numel sym_size
    sym_storage_offset sym_stride t t_ t_copy tensor_split tile to transpose transpose_ transpose_copy tril triu
    type_as unbind unbind_copy unflatten unfold unfold_copy unsqueeze unsqueeze_ unsqueeze_copy view view_as
    view_copy vsplit vstack
    """
)

# Values by their places. On the CPU torch checks the places when it runs; `operator_bounds` checks the rest.
_PLACES = words(
    """
    _embedding_bag _embedding_bag_forward_only _unsafe_index _unsafe_index_put argwhere embedding embedding_bag
    embedding_renorm embedding_renorm_ gather index index_add index_copy index_fill index_put index_reduce
    index_select masked_fill
    masked_scatter masked_select nonzero nonzero_numpy nonzero_static one_hot scatter scatter_add scatter_reduce take
    take_along_dim
    """
)

# Products and what solves linear equations. No operator that takes the pivots of another (lu_solve): it trusts them.
_LINEAR_ALGEBRA = words(
    """
    _trilinear addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul cholesky_inverse cholesky_solve
    cross det dot einsum ger inner inverse kron linalg_cholesky linalg_cholesky_ex linalg_cross linalg_det
    linalg_eigh linalg_eigvalsh linalg_inv linalg_inv_ex linalg_matmul linalg_matrix_exp linalg_matrix_power
    linalg_multi_dot linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular
    linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vecdot linear logdet matmul matrix_exp
    matrix_power mm mv outer pinverse slogdet tensordot vander vdot
    """
)

# Convolution, pooling, normalisation, resampling and Fourier transforms of images and signals.
_IMAGES = words(
    """
    _convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
    max_unpool3d
    _fused_rms_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _weight_norm
    _weight_norm_interface batch_norm group_norm instance_norm layer_norm native_batch_norm native_group_norm
    native_layer_norm renorm rms_norm
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d affine_grid_generator col2im grid_sampler grid_sampler_2d grid_sampler_3d im2col
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d
    _fft_c2c _fft_c2r _fft_r2c fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft
    fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft
    fft_rfft2 fft_rfftfreq fft_rfftn istft stft
    """
)

# Recurrent layers and attention, as single operators.
_SEQUENCES = words(
    """
    gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell
    _native_multi_head_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu
    _transformer_encoder_layer_fwd scaled_dot_product_attention
    """
)

# Tensors made of nothing but their sizes. What `empty` would find in memory is replaced by zeros.
_MADE = words(
    """
    arange bartlett_window blackman_window empty empty_like empty_permuted eye fill fill_ full full_like
    hamming_window hann_window kaiser_window linspace logspace new_empty new_full new_ones new_zeros ones ones_like
    scalar_tensor tril_indices triu_indices zero zero_ zeros zeros_like
    """
)

# Dropout out of training mode, and draws of which nothing reaches an output.
_RANDOM = words(
    """
    alpha_dropout bernoulli bernoulli_ binomial cauchy dropout exponential feature_alpha_dropout feature_dropout
    geometric log_normal multinomial native_dropout normal normal_ normal_functional poisson rand rand_like randint
    randint_like randn randn_like random randperm uniform uniform_
    """
)

# What torch.export adds to check sizes and types.
_CHECKS = words(
    """
    _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
    """
)

_IN_PLACE = (
    _ELEMENTWISE
    | _ACTIVATIONS
    | _RANDOM
    | words(
        """
    addbmm addmm addmv addr baddbmm cumprod cumsum fill index_add index_copy index_fill index_put index_reduce
    masked_fill masked_scatter renorm scatter scatter_add scatter_reduce tril triu zero
    """
    )
)
"""Families whose operators may also write their result into their first tensor: `relu_`."""

OPERATORS: dict[str, frozenset[str]] = {
    "aten": (
        _ELEMENTWISE | _ACTIVATIONS | _REDUCTIONS | _SHAPES | _PLACES | _LINEAR_ALGEBRA | _IMAGES | _SEQUENCES
        | _MADE | _RANDOM | _CHECKS | {f"{name}_" for name in _IN_PLACE if not name.endswith("_")}
    ),
    "prims": words("convert_element_type"),
    "torchvision": words("deform_conv2d nms ps_roi_align ps_roi_pool roi_align roi_pool"),
}  # fmt: skip
"""Every operator that an archive may call, by namespace."""

_OVERLOAD = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)")


def check_operator(name: object) -> str:
    """Return `name` if a graph may call it; raises InputError saying why not otherwise."""
    if isinstance(name, str):
        if name in _SIZE_OPERATORS or name in _HIGHER_ORDER:
            return name
        match = _OVERLOAD.fullmatch(name)
        if match and match[2] in OPERATORS[match[1]] and _takes_no_output(name, match[1]):
            return name
    private = isinstance(name, str) and name.startswith("torch.ops.aten._")
    raise InputError(
        f"the archive calls {str(name)[:80]!r}, which is not among the operators of inference that crossbar-sim "
        "allows (others could run code, write files or read outside of their tensors), so the archive is refused: "
        + ("export again without run_decompositions()" if private else "export the model again without it")
    )


_KINDS = {
    "dtype": "as_scalar_type", "out_dtype": "as_scalar_type", "layout": "as_layout", "device": "as_device",
    "memory_format": "as_memory_format",
}  # fmt: skip
_POSITIONAL = 1


def check_call(node: dict[str, Any]) -> None:
    """Refuse a node of a cleaned graph whose arguments torch would pass to other parameters than their names say.

    torch takes a number in the place of a type or a layout without a check.

    Raises:
        InputError: naming the operator and the argument.
    """
    operator = overload(node["target"])
    if operator is None:
        return
    given = {argument["name"]: argument for argument in node["inputs"]}
    gap = False
    for expected in operator._schema.arguments:
        argument = given.get(expected.name)
        positional = argument is not None and argument.get("kind") == _POSITIONAL
        if argument is not None:
            kinds = {kind for kind, value in argument["arg"].items() if kind != "as_none"}
            wanted = _KINDS.get(expected.name)
            if (positional and (gap or expected.kwarg_only)) or (wanted and kinds - {wanted}):
                raise InputError(
                    f"the archive calls {node['target']} with an argument {expected.name} as torch.export does not "
                    "write it, so the archive is refused: export the model again"
                )
        gap = gap or not positional
    if len(given) != len(node["inputs"]) or not given.keys() <= {a.name for a in operator._schema.arguments}:
        raise InputError(
            f"the archive calls {node['target']} with arguments that it does not have, or twice with one: export the "
            "model again"
        )


def overload(name: str) -> torch._ops.OpOverload | None:
    """The torch operator of a checked name; None for arithmetic on sizes and operators that run a nested graph."""
    match = _OVERLOAD.fullmatch(name)
    if match is None:
        return None
    namespace, packet, which = match.groups()
    operator = getattr(getattr(getattr(torch.ops, namespace), packet, None), which, None)
    return operator if isinstance(operator, torch._ops.OpOverload) else None


def _takes_no_output(target: str, namespace: str) -> bool:
    """Whether torch has the overload and it writes its result into no argument (it could resize that tensor)."""
    if namespace == "torchvision":
        try:
            # Importing it registers its operators.
            importlib.import_module("torchvision")
        except ImportError:
            raise InputError(
                f"the archive calls {target}, which needs torchvision: pip install '.[vision]' in a clone"
            ) from None
    operator = overload(target)
    if operator is None:
        raise InputError(
            f"the archive calls {target}, which torch {torch.__version__} does not have: "
            "export it again with this version of torch"
        )
    return not any(argument.is_out for argument in operator._schema.arguments)
