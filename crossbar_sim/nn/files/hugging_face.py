"""Hugging Face folders: config.json with safetensors weights, built by the `transformers` library.

Nothing is fetched, no code of the folder runs and no pickle is read: the class is one of `transformers`, named by
config.json, and gets the tensors that `safetensors_files` has read.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular, memory, reason
from crossbar_sim.nn.files.state_dict import check_model
from crossbar_sim.text import parse_json, refuse_constant

CONFIG = "config.json"

_LARGEST_CONFIG = 4 * 2**20
_COPIED = 2**30
"""Bytes of weights that are copied to memory; larger ones stay mapped from their files, which must not change then."""

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_OTHER_WEIGHTS = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax"}
_CONSTANTS = (".attn.masked_bias", ".position_ids", ".rotary_emb.inv_freq")
"""How the names of constants end that earlier versions of transformers saved, and models compute themselves."""

_SHARED = 256
"""More layers than tensors are no fault up to here: layers may share their weights."""

_SHOWN = 3


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        InputError: if it is not an object of JSON.
    """
    path = folder / CONFIG
    try:
        if check_regular(path, "a JSON file").st_size > _LARGEST_CONFIG:
            raise InputError(f"{path} is larger than {_LARGEST_CONFIG} bytes: is it the right file?")
        content = parse_json(path.read_bytes(), _object, _infinite)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): copy it again") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, expected an object of JSON: copy it again"
        )
    return content


def _infinite(name: str) -> float:
    """The limits of some state-space models are infinite."""
    return refuse_constant(name) if name == "NaN" else float(name)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """An object of JSON; an infinity, where it is written as {"__float__": "Infinity"}."""
    found = dict(pairs)
    kind = found.get("__float__")
    return float(kind) if len(found) == 1 and kind in ("Infinity", "-Infinity") else found


def check_folder(folder: Path, config: Mapping[str, Any]) -> str:
    """The class of `transformers` that a folder's model is of, by its config.json.

    Raises:
        InputError: if the folder has no weights that can be read, or its model needs other code.
    """
    own = "name its network with --arch package.module:factory"
    if "auto_map" in config:
        raise InputError(f"{folder} needs code of its own (auto_map in {CONFIG}), which is not run: {own}")
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder} holds an adapter (adapter_config.json): merge it with peft's merge_and_unload(), and save the "
            "whole model with save_pretrained"
        )
    if config.get("quantization_config") is not None:
        raise InputError(
            f"{folder} holds quantised weights (quantization_config in {CONFIG}): save the model before quantisation, "
            "and let the hardware's levels quantise it"
        )
    names = config.get("architectures")
    timm = config.get("architecture")
    if names is None and isinstance(timm, str):
        raise InputError(
            f"{folder} is of timm's {timm[:60]!r}: name its network with --arch timm:create_model --arch-arguments "
            f'\'{{"model_name": "{timm[:60]}"}}\''
        )
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'{folder / CONFIG} does not say of which class the model is: add "architectures": ["ClassName"], where '
            f"ClassName is the class of transformers that was saved, or {own}"
        )
    if len(names) > 1:
        raise InputError(
            f"{folder / CONFIG} names {len(names)} architectures ({', '.join(name[:60] for name in names[:4])}): "
            f"keep the one that was saved, or {own}"
        )
    return str(names[0])


def refuse_without_weights(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError for a folder with config.json and no safetensors weights, saying what to do."""
    names = config.get("architectures")
    cls = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "AutoModel"
    pickled = next((name for name in _PICKLES if (folder / name).exists()), None)
    if pickled is not None:
        raise InputError(
            f"{folder} holds pickled weights ({pickled}), which are not read because loading them can run code; where "
            f"you trust them, convert them once with transformers: {cls[:60]}.from_pretrained({str(folder)!r})"
            f".save_pretrained({str(folder)!r})"
        )
    for name, kind in _OTHER_WEIGHTS.items():
        if (folder / name).exists():
            raise InputError(
                f"{folder} holds {kind} weights ({name}): load them into the PyTorch model with transformers, and save "
                "that with save_pretrained"
            )
    raise InputError(
        f"{folder} holds {CONFIG} and no weights (model.safetensors or model.safetensors.index.json): copy them, too"
    )


def build(
    folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a folder with its weights, in evaluation mode, in the type of its weights; and notes.

    Attention is computed by transformers' own code ("eager"), and no cache of keys and values is kept.

    Args:
        folder: for errors.
        config: see `read_config`.
        tensors: all weights by name.

    Raises:
        InputError: if transformers is missing or cannot build it, a weight of the model is not in the folder or of
            another shape, or the folder has weights of layers that the model does not have.
    """
    name = check_folder(folder, config)
    library = _transformers()
    with _quiet(library), _offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cls, made = _configured(library, folder, name, config)
        layers = getattr(made, "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > max(len(tensors), _SHARED):
            raise InputError(
                f"{folder / CONFIG} says {layers} layers and there are {len(tensors)} tensors: copy both again"
            )
        _check_memory(cls, made, folder)
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        given = {n: value.clone() if size <= _COPIED else value for n, value in _unwrapped(tensors).items()}
        try:
            model, info = cls.from_pretrained(
                None,
                config=made,
                state_dict=given,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_check_loaded` refuses them, by name
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation="eager",
                dtype=_type(made, tensors),
            )
        except Exception as error:  # of any kind: the configuration may hold anything
            raise InputError(
                f"transformers {library.__version__} cannot load {folder} as {name} ({_line(error)}): is its "
                f"{CONFIG} that of its weights?"
            ) from error
        with contextlib.suppress(
            ImportError
        ):  # else its first forward does, which is state that it leaves behind
            importlib.import_module("transformers.utils.output_capturing").maybe_install_capturing_hooks(
                model
            )
    notes = _check_loaded(folder, name, model, info)
    check_model(model)
    return model.eval(), notes


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what DDP and torch.compile put before all names."""
    for wrapper in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise InputError(
            "Hugging Face folders need transformers: install it with pip install 'crossbar-sim[hf]', or name the "
            "network of the weights with --arch"
        ) from None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Context in which nothing is fetched, whatever a configuration names."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """Context without transformers' own messages and progress bars."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _configured(library: ModuleType, folder: Path, name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The class of a model, and its configuration."""
    try:
        found = getattr(library, name, None) if name.isidentifier() else None
    except Exception as error:  # a class whose own needs are not installed
        raise InputError(f"transformers cannot give {name} ({_line(error)}): {folder} needs it") from error
    cls: Any = found if isinstance(found, type) and issubclass(found, library.PreTrainedModel) else None
    if cls is None or cls.config_class is None:
        raise InputError(
            f"transformers {library.__version__} has no model class {name[:60]!r}, which {folder / CONFIG} names: "
            "install a version that has it, or name its network with --arch package.module:factory"
        )
    kind, expected = config.get("model_type"), cls.config_class.model_type
    if kind not in (None, expected):
        raise InputError(
            f"{folder / CONFIG} says model_type {str(kind)[:60]!r}, and {name} is of {expected!r}: copy it again"
        )
    try:
        made = cls.config_class.from_dict(dict(config))
        for part in (made, made.get_text_config()):
            part.use_cache = False
    except Exception as error:
        raise InputError(
            f"{folder / CONFIG} is not a configuration of {name} ({_line(error)}): copy it again"
        ) from error
    return cls, made


def _check_memory(cls: Any, config: Any, folder: Path) -> None:
    """Refuse, before it is made, a model that the machine's memory does not hold."""
    try:
        with torch.device("meta"):
            size = sum(p.numel() * p.element_size() for p in cls(config).parameters())
    except Exception as error:
        raise InputError(
            f"{folder / CONFIG}: {cls.__name__} cannot be built ({_line(error)}): copy it again"
        ) from error
    if size > memory():
        raise InputError(
            f"{folder / CONFIG} describes a model of {size / 2**30:.3g} GiB, and this machine has "
            f"{memory() / 2**30:.3g} GiB of memory"
        )


def _type(config: Any, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The floating type of the model: that of most of its weights; float32 for wider ones."""
    counts: dict[torch.dtype, int] = {}
    for value in tensors.values():
        if value.is_floating_point():
            counts[value.dtype] = counts.get(value.dtype, 0) + value.numel()
    most = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    return most if most in (torch.bfloat16, torch.float16) else torch.float32


def _check_loaded(folder: Path, name: str, model: nn.Module, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse weights that are missing or of another shape, and weights of parts that the model should have.

    Returns:
        Notes on weights of other heads, which the class does not have, and on the type of the weights.
    """
    missing = sorted(info["missing_keys"])
    shapes = sorted(
        str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in info["mismatched_keys"]
    )
    buffers = dict(model.named_buffers())
    unexpected = sorted(
        key for key in info["unexpected_keys"] if key not in buffers and not key.endswith(_CONSTANTS)
    )
    heads = [key for key in unexpected if _is_other_head(key, model)]
    strange = [key for key in unexpected if key not in heads]
    errors = [str(each) for each in info.get("error_msgs") or ()]
    faults = [
        f"{len(found)} {kind} ({_few(found)})"
        for kind, found in (
            ("missing", missing),
            ("of another shape", shapes),
            ("that it does not have", strange),
            ("errors", errors),
        )
        if found
    ]
    if faults:
        raise InputError(
            f"the weights in {folder} do not fit {name}: {', '.join(faults)}; name the class that was saved in "
            f'"architectures" of {CONFIG}, or save the model again with save_pretrained'
        )
    notes = []
    if heads:
        notes.append(
            f"{len(heads)} weights are of parts that {name} does not have and were left out ({_few(heads)})"
        )
    kinds = {p.dtype for p in model.parameters()} - {torch.float32}
    notes += [
        f"weights are {str(kind).removeprefix('torch.')} and stay so: arrays are programmed in float32, and what they "
        "hold is rounded to that type"
        for kind in sorted(kinds, key=str)
    ]
    return tuple(notes)


def _is_other_head(key: str, model: nn.Module) -> bool:
    """Whether a weight is of a module that the model does not have at all, such as a second head.

    A part of one of several equal layers, a further layer or a parameter of a module that is there is not: without
    it the model would compute something else.
    """
    parts = key.split(".")[:-1]
    for n, part in enumerate(parts):
        if part.isdigit():
            return False
        try:
            model.get_submodule(".".join(parts[: n + 1]))
        except AttributeError:
            return True
    return False


def _few(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(name[:120] for name in found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def image_shape(model: nn.Module) -> tuple[int, ...] | None:
    """The shape of one image (channels, height, width), for models that take images of one size."""
    config: Any = model.config
    side, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if getattr(model, "main_input_name", "") != "pixel_values" or not isinstance(channels, int):
        return None
    sides = (side, side) if isinstance(side, int) else side
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(s, int) for s in sides):
        return (channels, *sides)
    return None


_TOKENS = 64


def sequence_shape(model: nn.Module) -> tuple[int] | None:
    """The shape of one sequence of tokens to try a model of `transformers` on: 64 of them, if it takes so many.

    None for models that take something else.
    """
    config: Any = getattr(model, "config", None)
    if getattr(model, "main_input_name", "") != "input_ids" or config is None:
        return None
    # a table of places may begin at 2, behind those of padding (RoBERTa)
    places = getattr(config, "max_position_embeddings", None)
    return (max(min(_TOKENS, places - 2), 1) if isinstance(places, int) and places > 0 else _TOKENS,)
