"""Exported graphs (.pt2): operators that are allowed, size expressions, randomness, and the check of all of them."""

import ast
import importlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from crossbar_sim.errors import InputError

# The symbolic sizes of an exported graph, which torch evaluates, held to a small grammar.
#
# torch writes a dynamic size as text (`Symbol('s77', positive=True, integer=True)`, or `2*s0 + 1` in
# older files) and reads it back with `sympy.sympify`, which is `eval`. What passes here consists of
# symbols, bounded numbers, arithmetic, comparisons and the named functions below, and of nothing
# else.


_LONGEST = 1000
_LARGEST = 2**63

# sympy takes seconds to minutes for few of these inside each other; exports nest them once or twice.
_MOST_PARTS, _MOST_HARD, _DEEPEST, _MOST_SYMBOLS = 150, 6, 60, 8
_HARD = frozenset(["Max", "Min", "ModularIndexing", "Pow", "Where", "Piecewise"])
_MOST_DISTINCT, _MOST_IN_ALL = 2000, 60_000
"""Different expressions of an archive, and their parts together. A real one has a few dozen."""

# No backslash, no `#`, no `[`, no `{`, no non-ASCII: nothing for a tokenizer to read in two ways.
_CHARACTERS = re.compile(r"[A-Za-z0-9_ +\-*/%().,<>=!']*")
# s0 backed and u0 unbacked sizes; zf0, zuf0 floats. Five digits: torch counts up to the number.
SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,5}")


def words(text: str) -> frozenset[str]:
    """Read an allow-list written as words."""
    return frozenset(text.split())


_FUNCTIONS = words(
    """
    Integer Float Rational Add Mul Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv
    ModularIndexing IntTrueDiv FloatTrueDiv ToFloat CeilToInt FloorToInt TruncToInt RoundToInt
    TruncToFloat Where Identity Eq Ne Lt Le Gt Ge And Or Not Equality Unequality LessThan
    GreaterThan StrictLessThan StrictGreaterThan floor ceiling
    """
)
_ASSUMPTIONS = words(
    """
    positive integer nonnegative nonzero negative real finite zero even odd
    """
)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def check_expression(text: object) -> str:
    """Return `text` if it is a size expression; raises InputError quoting it otherwise."""
    allowed: ast.expr | None = None
    if isinstance(text, str) and len(text) <= _LONGEST and _CHARACTERS.fullmatch(text):
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            if _allowed(tree):
                allowed = tree
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    if allowed is not None and isinstance(text, str):
        _check_effort(allowed, text)
        return text
    raise InputError(
        f"the archive holds the size expression {str(text)[:80]!r}, which is not plain arithmetic "
        "on sizes; torch would run it as code, so it is refused"
    )


def check_expressions(program: object) -> None:
    """Refuse a program whose size expressions are, in total, more than torch's symbolic algebra can handle.

    Raises:
        InputError: with the number and the limit.
    """
    found: set[str] = set()
    waiting = [program]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(text := value.get("expr_str"), str):
                found.add(text)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    if len(found) > _MOST_DISTINCT:
        raise InputError(
            f"the archive has {len(found)} different size expressions, and at most {_MOST_DISTINCT} are read: export "
            "the model with fewer dynamic sizes"
        )
    for text in found:
        check_expression(text)
    parts = sum(_effort(ast.parse(text.strip(), mode="eval").body)[0] for text in found)
    if parts > _MOST_IN_ALL:
        raise InputError(
            f"the archive's size expressions have {parts} parts in all, and at most {_MOST_IN_ALL} are read: export "
            "the model with fewer dynamic sizes"
        )


def _check_effort(tree: ast.expr, text: str) -> None:
    """Refuse an expression that is plain arithmetic but too large."""
    parts, hard, depth, symbols = _effort(tree)
    if parts > _MOST_PARTS or hard > _MOST_HARD or depth > _DEEPEST or symbols > _MOST_SYMBOLS:
        raise InputError(
            f"the archive holds the size expression {text[:80]!r} of {parts} parts, {hard} maxima, powers and the "
            f"like, {depth} levels and {symbols} symbols (at most {_MOST_PARTS}, {_MOST_HARD}, {_DEEPEST} and "
            f"{_MOST_SYMBOLS}): torch could take for ever to read it, so it is refused; export the model with fewer "
            "dynamic sizes"
        )


def _effort(tree: ast.expr) -> tuple[int, int, int, int]:
    """Parts, those among them that are hard for sympy, levels and different symbols."""
    parts, hard, deepest, symbols = 0, 0, 0, set()
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, ast.expr):
            parts, deepest = parts + 1, max(deepest, depth)
        match node:
            case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)]):
                symbols.add(name)
                continue
            case ast.Call(func=ast.Name(id=name), args=args):
                hard += name in _HARD
                waiting += [(arg, depth + 1) for arg in args]
                continue
            case ast.Name(id=name):
                symbols.add(name)
            case ast.BinOp(op=ast.Pow()):
                hard += 1
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return parts, hard, deepest, len(symbols)


def _allowed(node: ast.expr, inside_power: bool = False) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int() | float() as number):
            return abs(number) <= _LARGEST
        case ast.Name(id=name):
            return SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _allowed(operand, inside_power)
        case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
            return _power(base, exponent, inside_power)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _ARITHMETIC) and all(_allowed(side, inside_power) for side in (left, right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return all(isinstance(op, _COMPARISONS) for op in ops) and all(
                _allowed(side, inside_power) for side in (left, *others)
            )
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)]):
            return SYMBOL.fullmatch(name) is not None and all(
                keyword.arg in _ASSUMPTIONS
                and isinstance(keyword.value, ast.Constant)
                and isinstance(keyword.value.value, bool)
                for keyword in node.keywords
            )
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            return _power(base, exponent, inside_power)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str() as digits)]):
            # sympy prints Float('0.5', precision=53).
            return re.fullmatch(r"-?\d{1,20}(\.\d{1,30})?", digits) is not None and all(
                keyword.arg == "precision"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value == 53
                for keyword in node.keywords
            )
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return name in _FUNCTIONS and all(_allowed(arg, inside_power) for arg in args)
    return False


def _power(base: ast.expr, exponent: ast.expr, inside_power: bool) -> bool:
    """A small constant power, never a power of a power: 9**9**9**9 would never end."""
    match exponent:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            exponent = inner
    match exponent:
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            exponent = inner
    small = isinstance(exponent, ast.Constant) and type(exponent.value) is int and 0 <= exponent.value <= 8
    return small and not inside_power and _allowed(base, inside_power=True)


# The operators that an exported graph may call: a list of what inference uses, by family, and nothing else.
#
# torch resolves an operator's name by walking attributes from the `torch` module, so that a file may name
# `torch.os.system`. Its verifier stops that one, but not `aten.from_file` and `aten.save`, which open files, nor
# operators that trust their caller with bounds and read or write outside of their tensors if a file calls them with
# other arguments than torch does (`max_pool2d_with_indices_backward`, `mkldnn_rnn_layer`, `resize_`). So a name
# must be in the tables below. They hold the operators that exported networks contain, as traced and decomposed: no
# gradients, no losses, no statistics that are updated, no sparse, nested or quantised tensors, and no operators of one
# backend's library. Listed operators that do not check all their arguments are checked by `operator_bounds`.


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
    """Refuse a node of a cleaned graph whose arguments would be passed to other parameters than they name.

    A number in the place of a type or of a layout is taken for one without a check.

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
    """The operator of a checked name; None for arithmetic on sizes and for what runs a nested graph."""
    match = _OVERLOAD.fullmatch(name)
    if match is None:
        return None
    namespace, packet, which = match.groups()
    operator = getattr(getattr(getattr(torch.ops, namespace), packet, None), which, None)
    return operator if isinstance(operator, torch._ops.OpOverload) else None


def _takes_no_output(target: str, namespace: str) -> bool:
    """Whether it is an overload that torch has and exports contain: not one that resizes a tensor for its result."""
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


# Refuse non-deterministic graphs: exports in training mode, and operators that draw random numbers.
#
# Runs of such a model differ by themselves, so their differences would be reported as the hardware's, and no two
# runs would write the same bytes. A graph cannot be put in evaluation mode afterwards, nor seeded from outside.


_SWITCHES = ("train", "training")
_CHANCES = ("p", "dropout", "dropout_p")
_BATCH_NORMS = ("batch_norm", "native_batch_norm", "_native_batch_norm_legit")


def refuse_random(graph: dict[str, Any], signature: dict[str, Any]) -> None:
    """Raise InputError if an operator of the cleaned graph, or of one nested in it, is random.

    Args:
        graph: the cleaned graph.
        signature: which of its inputs are parameters, buffers and constants.
    """
    stored = set().union(*(_all_names(spec) for spec in signature["input_specs"] if "user_input" not in spec))
    for level, fixed in _graphs(graph, stored):
        live = _live(level)
        for node in level["nodes"]:
            operator = overload(node["target"])
            if operator is None:
                continue
            if not _taken(node) <= fixed:  # else a weight is standardised, the same for every batch
                _refuse_batches(node, operator)
            _refuse_dropout(node, operator)
            # A draw that reaches no output (a VAE of which only the mean is returned) harms nobody.
            if _draws(operator) and (operator._schema.is_mutable or live & _all_names(node["outputs"])):
                raise InputError(
                    f"the archive calls {node['target']}, which draws random numbers: every run would differ, "
                    "and chance would count as loss by the hardware; export the deterministic path in evaluation "
                    "mode (of a VAE its mean)"
                )


def _switched(
    node: dict[str, Any], operator: torch._ops.OpOverload
) -> tuple[bool, str | None, str | None, Any]:
    """Whether an operator acts as in training, the names of its switch and its probability, and the probability."""
    name = operator._schema.name.removeprefix("aten::")
    given = {argument.get("name"): argument["arg"] for argument in node["inputs"]}
    names = [argument.name for argument in operator._schema.arguments]
    switch = next((n for n in _SWITCHES if n in names), None)
    chance = next((n for n in _CHANCES if n in names), None)
    off = name != "native_dropout"  # whose train=None means True
    on = switch is None or given.get(switch, {}).get("as_bool", not off) is True
    p = given.get(chance, {})
    none = chance is not None and not p.get("as_float", p.get("as_int", 0))
    return on and not none, switch, chance, p.get("as_float", p.get("as_int"))


def _refuse_batches(node: dict[str, Any], operator: torch._ops.OpOverload) -> None:
    """Refuse normalisation by batch statistics, also in place or decomposed."""
    on, switch, _, _ = _switched(node, operator)
    name = operator._schema.name.removeprefix("aten::")
    if on and name in _BATCH_NORMS and operator._overloadname == "default":
        raise InputError(
            f"the archive was exported in training mode ({node['target']} has {switch}=True), so an output would "
            "depend on the other inputs of its batch: call model.eval() before torch.export.export (a batch "
            "normalisation with track_running_stats=False has no evaluation mode: give it running statistics)"
        )


def _refuse_dropout(node: dict[str, Any], operator: torch._ops.OpOverload) -> None:
    """Refuse active dropout, also in place or decomposed."""
    on, switch, chance, p = _switched(node, operator)
    if not on:
        return
    if torch.Tag.nondeterministic_seeded in operator.tags and (switch or chance) and not _draws(operator):
        why = f"{switch}=True" if switch else f"{chance}={p}"
        raise InputError(
            f"the archive was exported in training mode ({node['target']} has {why}), so its outputs would be "
            "random: call model.eval() before torch.export.export (functional dropout needs training=self.training)"
        )


def _draws(operator: torch._ops.OpOverload) -> bool:
    """Whether the operator is random for all arguments: torch tags operators that use its generator."""
    names = {argument.name for argument in operator._schema.arguments}
    conditional = names & {*_SWITCHES, "dropout", "dropout_p"}
    return torch.Tag.nondeterministic_seeded in operator.tags and not conditional


def graphs(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A graph and those nested in its arguments."""
    yield graph
    for node in graph["nodes"]:
        for argument in node["inputs"]:
            if nested := argument["arg"].get("as_graph"):
                yield from graphs(nested["graph"])


def _graphs(graph: dict[str, Any], stored: set[str]) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """The graph and those nested in its arguments, each with the names of all values that no input enters.

    Args:
        graph: of one level.
        stored: the names of its inputs that hold such values.
    """
    fixed = set(stored)
    nested = []
    for node in graph["nodes"]:
        operator = overload(node["target"])
        inner = [a["arg"]["as_graph"]["graph"] for a in node["inputs"] if a["arg"].get("as_graph")]
        if inner:
            operands = [name for a in node["inputs"] for name in _tensors(a["arg"])]
            for level in inner:
                own = [name for argument in level["inputs"] for name in _tensors(argument)]
                pairs = zip(own, operands, strict=False) if len(own) == len(operands) else ()
                nested.append((level, {name for name, given in pairs if given in fixed}))
        drawn = operator is not None and _draws(operator)
        if not drawn and _taken(node) <= fixed:
            fixed |= _all_names(node["outputs"])
    yield graph, fixed
    for level, known in nested:
        yield from _graphs(level, known)


def _taken(node: dict[str, Any]) -> set[str]:
    """Names of the values that a node takes."""
    return set().union(*(_all_names(a["arg"]) for a in node["inputs"] if not a["arg"].get("as_graph")))


def _tensors(argument: dict[str, Any]) -> list[str]:
    """Names of the tensors of one argument, in order."""
    several = argument.get("as_tensors") or []
    return [t["name"] for t in ([argument["as_tensor"]] if "as_tensor" in argument else several)]


def _live(graph: dict[str, Any]) -> set[str]:
    """Names of the values that an output, or anything changed in place, is made of."""
    live = _all_names(graph["outputs"])
    for node in reversed(graph["nodes"]):
        operator = overload(node["target"])
        changes = (
            operator._schema.is_mutable if operator is not None else node["target"].startswith("torch.ops.")
        )
        if changes or live & _all_names(node["outputs"]):
            live |= _all_names(node["inputs"])
    return live


def _all_names(value: Any) -> set[str]:
    """Every name in a part of the graph; those of arguments and nested graphs among them do no harm."""
    if isinstance(value, dict):
        own = {value[key] for key in ("name", "as_name") if isinstance(value.get(key), str)}
        return own.union(*(_all_names(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_all_names(item) for item in value))
    return set()


# The graph of a torch.export archive, copied field by field through an allow-list.
#
# `models/model.json` is not only data to torch: names end up verbatim in generated Python
# source, sizes go through `eval`, operator names through `getattr`, tree contexts through
# `import_module`, guards through `exec`. So nothing of the original text is handed on. Each field
# that may hold text has a rule here; fields without a rule may hold only numbers; fields that only
# serve debugging are dropped.


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Parameter names; a segment may be a number or have a hyphen (`layers.0-1.weight`) but is never a
# dunder. torch writes such segments as getattr(self, "0-1"), so quotes must not pass.
_DOTTED = re.compile(r"(?!__)[A-Za-z0-9_-]+(\.(?!__)[A-Za-z0-9_-]+)*")
_CPU = {"type": "cpu", "index": None}
# Numbers of torch._export.serde.schema: dense tensors, and types that are plain numbers.
_STRIDED = 7
_TYPES = (*range(1, 14), *range(28, 36))

_LONGEST_GRAPH = 2**28
"""Characters of a program's JSON: a graph of 100,000 nodes has 50 million."""


def clean_program(text: bytes) -> dict[str, Any]:
    """Parse a serialised program and return a copy that torch can load without running code.

    Guards, metadata, sample values and the call signatures of submodules are dropped; devices
    become the CPU.

    Raises:
        InputError: the text is no serialised program, or holds something outside the allow-list.
    """
    program = parse_json(text, "models/model.json")
    try:
        check_expressions(program)
        graph_module = program["graph_module"]
        calls = [call for call in graph_module["module_call_graph"] if call["fqn"] == ""]
        call = calls[0]["signature"]
        clean = {
            "graph_module": {
                "graph": _copy("graph", graph_module["graph"]),
                "signature": _copy("signature", graph_module["signature"]),
                "module_call_graph": [
                    {
                        "fqn": "",
                        "signature": {
                            "inputs": _copy("inputs", call["inputs"]),
                            "outputs": _copy("outputs", call["outputs"]),
                            "in_spec": _tree(call["in_spec"]),
                            "out_spec": _tree(call["out_spec"]),
                            "forward_arg_names": [
                                _identifier("forward_arg_names", name)
                                for name in call.get("forward_arg_names") or []
                            ],
                        },
                    }
                ],
                "metadata": {},
            },
            "opset_version": {"aten": int(program["opset_version"]["aten"])},
            # A key that is no symbol would only be looked up and not found.
            "range_constraints": {
                name: _copy("range", limits)
                for name, limits in program["range_constraints"].items()
                if SYMBOL.fullmatch(name)
            },
            "schema_version": _copy("schema_version", program["schema_version"]),
            "verifiers": [_verifier(name) for name in program.get("verifiers", [])],
            "guards_code": [],
        }
        for level in graphs(clean["graph_module"]["graph"]):
            for node in level["nodes"]:
                check_call(node)
        refuse_random(clean["graph_module"]["graph"], clean["graph_module"]["signature"])
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            "models/model.json of the archive is not a program as torch.export writes it "
            f"({type(error).__name__} at {str(error)[:60]!r}): export the model again"
        ) from error
    return clean


def parse_json(text: bytes, member: str) -> dict[str, Any]:
    """Parse a member that must be a JSON object; raises InputError naming it."""
    if len(text) > _LONGEST_GRAPH:
        raise InputError(
            f"{member} of the archive has {len(text)} characters, and at most {_LONGEST_GRAPH} are read: the file is "
            "damaged or made to fill memory"
        )
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{member} of the archive is not readable JSON: the file is damaged") from error
    if not isinstance(value, dict):
        raise InputError(f"{member} of the archive is not a JSON object: the file is damaged")
    return value


def dotted(field: str, value: object) -> str:
    """Return a parameter's dotted name; raises InputError if it is anything else."""
    if isinstance(value, str) and len(value) <= 500 and _DOTTED.fullmatch(value):
        return value
    raise _badly_named(field, value)


def _badly_named(field: str, value: object) -> InputError:
    return InputError(
        f"the archive's graph holds {str(value)[:80]!r} as {field}: torch writes names into code that it runs, so "
        "crossbar-sim allows only letters, digits, _ and - in them, and such an archive is refused; rename it in the "
        "model, and export again"
    )


def _outside(field: str, value: object) -> InputError:
    return InputError(
        f"the archive's graph holds {str(value)[:80]!r} as {field}, which torch.export does not "
        "write and which could run code, so it is refused"
    )


def _identifier(field: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= 500 and _IDENTIFIER.fullmatch(value):
        return value
    raise _badly_named(field, value)


def _argument_name(field: str, value: object) -> str | None:
    # Arguments of higher-order operators are positional and nameless; old nodes have no name.
    return value if value in ("", None) else _identifier(field, value)  # type: ignore[return-value]


def _text(field: str, value: object) -> str:
    # Becomes a Python literal through repr. The operators that take text are few and named.
    if isinstance(value, str) and len(value) <= 500 and value.isprintable():
        return value
    raise _outside(field, value)


def _number(field: str, value: object) -> float | str:
    # JSON has no infinity; the serialiser writes these words.
    if value in ("Infinity", "-Infinity", "NaN") or type(value) in (int, float):
        return value  # type: ignore[return-value]
    raise _outside(field, value)


def _one_of(field: str, value: object, allowed: tuple[int, ...]) -> int:
    if type(value) is int and value in allowed:
        return value
    raise _outside(field, value)


def _verifier(value: object) -> str:
    if value in ("TRAINING", "ATEN", "EDGE", ""):
        return str(value)
    raise _outside("verifier", value)


def _holder(metadata: object) -> dict[str, str]:
    """The name of the layer that calls an operator, for `archive_ties`; `without_metadata` takes it out again."""
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    innermost = stack.rpartition(";")[2].split(",") if isinstance(stack, str) else []
    # A layer's second call is marked by a number.
    name = innermost[1].partition("@")[0] if len(innermost) > 1 else ""
    return {"holder": name} if len(name) <= 500 and _DOTTED.fullmatch(name) else {}


def without_metadata(value: Any) -> Any:
    """A copy of a cleaned program in which every metadata field is empty, which is what torch gets."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else without_metadata(item) for key, item in value.items()}
    return [without_metadata(item) for item in value] if isinstance(value, list) else value


def _many(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], list[Any]]:
    return lambda field, values: [
        _many(rule)(field, value) if isinstance(value, list) else rule(field, value) for value in values
    ]


def _named(field: str, values: dict[str, Any]) -> dict[str, Any]:
    return {_identifier(field, name): _copy("value", value) for name, value in values.items()}


_RULES: dict[str, Callable[[str, Any], Any]] = {
    "name": _argument_name,
    "as_name": _identifier,
    "target": lambda _, value: check_operator(value),
    "as_operator": lambda _, value: check_operator(value),
    "expr_str": lambda _, value: check_expression(value),
    "parameter_name": dotted,
    "buffer_name": dotted,
    "tensor_constant_name": dotted,
    "user_input_name": dotted,
    "as_string": _text,
    "as_strings": _many(_text),
    "as_float": _number,
    "real": _number,
    "imag": _number,
    "as_floats": _many(_number),
    "as_float_lists": _many(_number),
    "tensor_values": _named,
    "sym_int_values": _named,
    "sym_bool_values": _named,
    "sym_float_values": _named,
    "layout": lambda field, value: _one_of(field, value, (_STRIDED,)),
    "as_layout": lambda field, value: _one_of(field, value, (_STRIDED,)),
    "dtype": lambda field, value: _one_of(field, value, _TYPES),
    "as_scalar_type": lambda field, value: _one_of(field, value, _TYPES),
    "as_memory_format": lambda field, value: _one_of(field, value, (1, 2, 3, 4)),
    "device": lambda *_: dict(_CPU),
    "as_device": lambda *_: dict(_CPU),
    # Stack traces and module names: for debuggers, and partly resolved by getattr.
    "metadata": lambda _, value: _holder(value),
}

# Fields whose values are numbers, truth values, null, or lists and objects of listed fields.
_STRUCTURE = words(
    """
    graph inputs outputs nodes is_single_tensor_return arg kind is_hop_single_tensor_return
    as_none as_tensor as_tensors as_int as_ints as_sym_int as_sym_ints
    as_bool as_bools as_sym_bool as_sym_bools as_graph
    as_optional_tensors as_sym_float as_sym_floats as_optional_tensor as_complex
    as_nested_tensors as_int_lists sizes requires_grad strides storage_offset
    as_expr hint input_specs output_specs user_input parameter buffer persistent tensor_constant
    constant_input value user_output loss_output buffer_mutation parameter_mutation
    user_input_mutation min_val max_val major minor
    """
)


def _copy(field: str, value: Any) -> Any:
    """Copy a JSON value, applying each field's rule; refuse unknown fields that are not empty."""
    if isinstance(value, dict):
        copied = {}
        for name, item in value.items():
            if name in _RULES:
                copied[name] = _RULES[name](name, item)
            elif name in _STRUCTURE:
                copied[name] = _copy(name, item)
            elif item not in (None, {}, [], "", False):
                # An empty field of a newer torch says nothing; a filled one might.
                raise InputError(
                    f"the archive's graph has a field {name[:40]!r} that crossbar-sim does not "
                    "know (custom objects and compiled parts are not loaded): export a plain model "
                    "again"
                )
        return copied
    if isinstance(value, list):
        return [_copy(field, item) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise _outside(field, value)


def _key(i: int, key: object) -> str:
    """A dict's key; one that is not an identifier ("class-logits", 0) is replaced rather than handed on."""
    return key if isinstance(key, str) and len(key) <= 500 and _IDENTIFIER.fullmatch(key) else f"_key_{i}"


def _names(context: object, count: int) -> list[object] | None:
    """The names that a tree's context gives its parts, as dicts and registered classes do; None if it gives none.

    A dict has a list of keys, a dataclass two lists (the fields that hold something and those that are None), a
    defaultdict its keys beside its factory.
    """
    if isinstance(context, str):
        try:
            context = json.loads(context)
        except ValueError:  # the name of a named tuple
            return None
    if isinstance(context, dict):
        context = context.get("dict_context")
    if isinstance(context, list) and len(context) == 2 and all(isinstance(part, list) for part in context):
        context = context[0]
    plain = isinstance(context, list) and all(isinstance(name, str | int) for name in context)
    return context if plain and len(context) == count and len(set(context)) == count else None  # type: ignore


def _tree(text: object) -> str:
    """Copy a tree of tuples, lists and dicts; registered classes become dicts of their fields, other types tuples.

    Contexts may otherwise import modules.
    """

    def node(spec: dict[str, Any]) -> dict[str, Any]:
        kind, children = spec["type"], [node(child) for child in spec["children_spec"]]
        if kind is None:
            return {"type": None, "context": None, "children_spec": children}
        names = _names(spec["context"], len(children))
        if kind == "builtins.dict" and names is None:
            raise _outside("the keys of a dict", spec["context"])
        if kind in ("builtins.tuple", "builtins.list") or names is None:
            kind = kind if kind == "builtins.list" else "builtins.tuple"
            return {"type": kind, "context": "null", "children_spec": children}
        keys = json.dumps([_key(i, name) for i, name in enumerate(names)])
        return {"type": "builtins.dict", "context": keys, "children_spec": children}

    if not isinstance(text, str):
        raise _outside("a tree", text)
    protocol, spec = json.loads(text)
    if protocol != 1:
        raise _outside("a tree's protocol", protocol)
    return json.dumps([1, node(spec)])
