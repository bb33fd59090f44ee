"""Which operators an exported graph may call.

torch resolves an operator's name by walking attributes from the `torch` module, so that a file may
name `torch.os.system`. Its verifier stops that one, but not operators such as `aten.from_file` and
`aten.save`, which write files. Here a name must be one of a few integer operations, or an overload
in the aten, prims or torchvision namespace whose arguments are tensors and numbers.
"""

import importlib
import re

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.archive_expressions import words

# What the serialiser itself writes for arithmetic on sizes and for picking one of several outputs.
_SIZE_OPERATORS = words(
    """
    _operator.eq _operator.ne _operator.le _operator.ge _operator.lt _operator.gt _operator.neg
    _operator.pos _operator.mul _operator.add _operator.sub _operator.floordiv _operator.mod
    _operator.pow _operator.truediv _operator.and_ _operator.or_ _operator.lshift _operator.rshift
    _operator.getitem torch.sym_not torch.sym_int torch.sym_float torch.sym_ite torch.sym_max
    torch.sym_min torch.sym_sqrt torch.sym_sum math.trunc math.floor math.ceil
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

_OVERLOAD = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)")

# Text arguments can name files (aten.save, aten.from_file), so only these overload packets may
# have one.
_TAKES_TEXT = words(
    """
    _assert_async _assert_scalar conv1d conv2d conv3d div div_ einsum fft_fft fft_fft2 fft_fftn
    fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ihfft fft_ihfft2 fft_ihfftn
    fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn gelu gelu_ index_reduce
    linalg_matrix_norm linalg_norm meshgrid norm nuclear_norm pad quantile nanquantile scatter
    scatter_reduce scatter_reduce_ searchsorted
    """
)
# Every other operator must have a tensor in its signature, which excludes switches of the process.
_NO_TENSOR = frozenset(["_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"])

# aten's private operators trust their caller with bounds; these are what exports contain.
_PRIVATE = words(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar
    _assert_tensor_metadata _batch_norm_no_update _cdist_forward _convolution _embedding_bag
    _embedding_bag_forward_only _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _native_multi_head_attention _prelu_kernel
    _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _softmax
    _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy _transformer_encoder_layer_fwd
    _trilinear _unsafe_index _unsafe_view _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm
    _weight_norm_interface __and__ __or__ __xor__ __lshift__ __rshift__
    """
)

_PLAIN_TYPES = words(
    """
    Tensor Optional List int float bool number complex SymInt SymBool SymFloat ScalarType Device
    Layout MemoryFormat Generator NoneType str
    """
)


def check_operator(name: object) -> str:
    """Return `name` if a graph may call it; raises InputError saying why not otherwise."""
    if isinstance(name, str):
        if name in _SIZE_OPERATORS or name in _HIGHER_ORDER:
            return name
        match = _OVERLOAD.fullmatch(name)
        if match and _plain(name, match[1], match[2]):
            return name
    private = isinstance(name, str) and name.startswith("torch.ops.aten._")
    raise InputError(
        f"the archive calls {str(name)[:80]!r}, which is not among the tensor operators that crossbar-sim allows "
        "(an unknown one could run code or write files), so the archive is refused: "
        + ("export again without run_decompositions()" if private else "export the model again without it")
    )


def overload(name: str) -> torch._ops.OpOverload | None:
    """The operator of a checked name; None for arithmetic on sizes and for what runs a nested graph."""
    match = _OVERLOAD.fullmatch(name)
    if match is None:
        return None
    namespace, packet, which = match.groups()
    operator = getattr(getattr(getattr(torch.ops, namespace), packet, None), which, None)
    return operator if isinstance(operator, torch._ops.OpOverload) else None


def _plain(target: str, namespace: str, name: str) -> bool:
    if namespace == "aten" and name.startswith("_") and name not in _PRIVATE:
        return False
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
    schema = operator._schema
    words = [
        word
        for value in (*schema.arguments, *schema.returns)
        for word in re.findall(r"[A-Za-z]+", str(value.type))
    ]
    if not _PLAIN_TYPES.issuperset(words):
        return False
    if "str" in words and name not in _TAKES_TEXT:
        return False
    return "Tensor" in words or name in _NO_TENSOR
