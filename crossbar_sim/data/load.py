"""From the name of a data set, or the path of a file or folder, to its splits."""

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from crossbar_sim.data.arrays import in_type, labels_of, load_npy, load_npz, scaled
from crossbar_sim.data.catalogue import CATALOGUE
from crossbar_sim.data.cifar import load_cifar10
from crossbar_sim.data.dataset import Development, Split, Splits
from crossbar_sim.data.embedded import load_digits, load_moons
from crossbar_sim.data.folders import load_folder
from crossbar_sim.data.gtsrb import load_gtsrb
from crossbar_sim.data.idx import load_fashion_mnist, load_mnist
from crossbar_sim.data.inputs import Batch, Inputs
from crossbar_sim.data.pennfudan import load_pennfudan
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key, as_key

Size = tuple[int, int]

DATASETS: dict[str, Callable[[Path | None, Key], Splits]] = {
    "digits": lambda data_dir, key: load_digits(key),
    "moons": lambda data_dir, key: load_moons(key),
    "mnist": lambda data_dir, key: load_mnist(data_dir),
    "fashion-mnist": lambda data_dir, key: load_fashion_mnist(data_dir),
    "cifar10": lambda data_dir, key: load_cifar10(data_dir),
    "gtsrb": load_gtsrb,
}
"""Every data set by name: (data_dir, key) -> Splits. Drives the help and the tests."""

PATHS = "the path of an .npz, an .npy or a folder of class folders"
_MOST_SIDE = 4096
_LAYOUTS = {
    "PNGImages": "pennfudan", "PennFudanPed": "pennfudan", "Final_Training": "gtsrb", "Final_Test": "gtsrb",
    "GTSRB": "gtsrb", "cifar-10-batches-py": "cifar10", "data_batch_1": "cifar10", "MNIST": "mnist",
    "FashionMNIST": "fashion-mnist",
}  # fmt: skip


def load_data(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    key: Key | int = Key(0),  # noqa: B008 (frozen: the one object is as good as a new one)
    size: int | Size | None = None,
    inputs: Sequence[str] = (),
) -> Splits:
    """Load a data set.

    Args:
        name_or_path: a name of `DATASETS`, "pennfudan" (for detection: its splits are `Scenes`), or the path of a
            file that ends in `.npz` or `.npy`, or of a folder of class folders. Arrays, data sets of torch and
            the other forms that `robustness` takes become data with a test split alone.
        data_dir: where data sets with files are; `None` asks $CROSSBAR_SIM_DATA. The embedded
            digits and a path need none.
        key: names the split where the data has no official one (digits, folders, and the validation
            split of GTSRB). It is not a run's seed: keep it, or results of different runs are about
            different test images. An integer is taken for `Key(integer)`.
        size: height and width that the images of a folder or of GTSRB are resized to; one number for
            squares. `None`: 32 x 32 for GTSRB, and images of a folder have one size already.
        inputs: names of the inputs that a model needs, see `load_npz`.

    Raises:
        InputError: if the name is unknown, or its reader refuses the data.

    >>> load_data("digits").test.x.shape[1:]
    torch.Size([1, 8, 8])
    """
    if not isinstance(name_or_path, str | os.PathLike):
        found = to_examples(name_or_path)
        split = found.split()
        top = None if split.y is None or split.y.is_floating_point() else int(split.y.max()) + 1
        return Splits(found.name, None, None, split, top, found.notes)
    key = as_key(key)
    name = os.fspath(name_or_path)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    sides = _sides(size)
    folder = None if data_dir is None else Path(data_dir)
    if name == "gtsrb" and sides is not None:
        return load_gtsrb(folder, key, sides)
    is_folder = name not in CATALOGUE and bool(name) and os.path.isdir(name)
    if sides is not None and not is_folder:
        raise InputError(
            f"size={size}: only images of a folder and of gtsrb are resized; leave it out for {name!r}"
        )
    if is_folder:
        _check_own(Path(name))
        return load_folder(Path(name), key, sides)
    if name.lower().endswith((".npz", ".npy")):
        return load_npz(Path(name), inputs) if name.lower().endswith(".npz") else load_npy(Path(name))
    if name == "pennfudan":
        return load_pennfudan(folder, key).on_canvas()
    if name.lower().endswith(".mat") and os.path.isfile(name):
        raise InputError(
            f"{name}: MATLAB files are not read as data; in Python: m = scipy.io.loadmat({name!r}) (h5py, transposed, "
            "for version 7.3), then numpy.savez('data.npz', x=m['x'], y=m['y'].ravel()), examples first"
        )
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(
            f"unknown data {name[:200]!r}{hint}: give one of {', '.join(DATASETS)}, pennfudan, or {PATHS}"
        )
    return DATASETS[name](folder, key)


def _sides(size: int | Size | None) -> Size | None:
    """Height and width.

    Raises:
        InputError: if they are not integers in 1 .. 4096.
    """
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _MOST_SIDE for side in sides):
        raise InputError(
            f"size={size}: give height and width, or one number for both, of 1 to {_MOST_SIDE} pixels"
        )
    return sides[0], sides[1]


def _check_own(folder: Path) -> None:
    """Refuse a folder that is, or holds, a named data set: its folders are not classes.

    Raises:
        InputError: with the name to give.
    """
    for below, name in _LAYOUTS.items():
        if (folder / below).exists():
            raise InputError(
                f"{folder}: holds {below}, of {name}: give the name {name} and --data-dir {folder}"
            )


# Data of Python users, in any usual form, as the tensors that the package computes with.
#
# One adapter behind `deploy`, `robustness`, `cost`, every `fit`, `BayesFT` and `load_data`: tensors, arrays, lists,
# data frames, pairs (x, y), dictionaries, torch `Dataset`s and `DataLoader`s, data sets by name or path, splits.


FORMS = (
    "(x, y) of arrays or tensors, a Split, a torch Dataset or DataLoader, a dictionary with x and y, or the name or "
    "path of a data set"
)
_X = ("x", "inputs", "input", "input_ids", "pixel_values", "image", "images", "data", "features")
_Y = ("y", "labels", "label", "targets", "target")
_BATCH = 256
_MADE = "made: "
"""Before the name of a mask that is made here."""


@dataclass(frozen=True, eq=False)
class RawExamples:
    """Examples in the type that the user passed.

    Args:
        x: (n, ...) of any real type, or several inputs.
        y: labels int64, (n,) or (n, places...), or None.
        name: what reports call the data.
        notes: what was done to them, as sentences.
        fingerprint: of the data set that they are the test split of; None: `identity` computes their own.
        scenes: the split itself, where it is one of scenes with objects.
    """

    x: Batch
    y: Tensor | None
    name: str = "data"
    notes: tuple[str, ...] = ()
    fingerprint: str | None = None
    scenes: Split | None = None

    def split(self, key: str = "x") -> Split:
        """The examples as float32; uint8 is taken for pixels and divided by 255.

        Raises:
            InputError: if they are not finite, or integers that float32 does not hold.
        """
        x = self.x
        y = None if self.y is None else self.y.cpu()
        if isinstance(x, Inputs):
            return Split(x.map(lambda t: (t.float() if t.is_floating_point() else t).cpu().contiguous()), y)
        if x.dtype == torch.uint8:
            x = scaled(x.numpy())
        elif x.dtype != torch.float32:
            if not x.is_floating_point() and x.numel() and int(x.abs().max()) >= 2**24:
                raise InputError(
                    f"{key} holds {int(x.abs().max())}: integers of magnitude below 16777216 are needed"
                )
            x = x.float()
        return Split(x.cpu().contiguous(), y)

    def identity(self) -> dict[str, Any]:
        """What names the examples in a report and in a task's identity.

        Raises:
            InputError: see `split`.
        """
        digest = self.fingerprint
        if digest is None and self.scenes is not None:
            digest = Splits(self.name, None, None, self.scenes, None).fingerprint
        if digest is None:
            part = self.split()
            if (
                isinstance(self.x, Tensor) and self.x.dtype == torch.uint8
            ):  # a model may take the bytes unchanged
                part = Split(self.x.float(), part.y)
            digest = Splits(self.name, None, None, part, None).fingerprint
        return {
            "name": self.name,
            "fingerprint": digest,
            "images": len(self.x),
            "labelled": self.y is not None,
        }


def to_examples(data: Any, y: Any = None, what: str = "data") -> RawExamples:
    """Examples, and their labels where there are any.

    Args:
        data: see `FORMS`; of data with several splits the test split.
        y: labels where `data` is x alone.
        what: what errors call it.

    Raises:
        InputError: in one line, if this is not data or x and y do not go together.
    """
    if data is None:
        raise InputError(f"{what} is missing: give {FORMS}")
    if isinstance(data, (Development, type)):
        kind = (
            f"the class {data.__name__}"
            if isinstance(data, type)
            else "Development (training and validation)"
        )
        rest = "an instance of it" if isinstance(data, type) else "the examples to be scored, a Split"
        raise InputError(f"{what} is {kind}: give {rest}")
    if isinstance(data, str | os.PathLike):
        data = load_data(data)
    if isinstance(data, Splits):
        _no_labels_beside(y, what)
        test = data.test
        return RawExamples(test.x, test.y, data.name, data.notes, data.fingerprint)
    if isinstance(data, Split):
        _no_labels_beside(y, what)
        return RawExamples(data.x, data.y, scenes=data if type(data) is not Split else None)
    if (
        y is not None
        and isinstance(data, tuple)
        and len(data) > 1
        and all(np.ndim(part) > 1 for part in data)
    ):
        data = (data, None)  # several inputs
    found = _pair(data, what)
    columns, labels, padding = found or ({0: data}, None, ())
    if labels is not None:
        _no_labels_beside(y, what)
    labels = y if labels is None else labels
    x, notes = _batch_of(columns, "x" if found is not None or y is not None else what)
    if isinstance(x, Tensor) and (x.dim() < 2 or x.numel() == 0):
        raise InputError(
            f"x has shape {tuple(x.shape)}: examples have shape (n, ...) with at least one example of at least one "
            "value; a single feature is (n, 1)"
        )
    return RawExamples(x, None if labels is None else _labels(labels, len(x)), notes=(*notes, *padding))


def to_split(data: Any, what: str = "data") -> Split:
    """Labelled or unlabelled examples as a `Split`; `Scenes` and splits stay what they are.

    Raises:
        InputError: in one line, if this is not data.
    """
    return data if isinstance(data, Split) else to_examples(data, what=what).split()


def to_development(data: Any) -> Development:
    """Training and validation examples.

    Args:
        data: `Development`, {"train": ..., "validation": ...} of data in any form, or a data set's name or path. A
            pair is refused, because its second part may be the test split: parts are named.

    Raises:
        InputError: if it is anything else: data with a test split above all, on which a method could select.
    """
    if isinstance(data, Development):
        return data
    if isinstance(data, str | os.PathLike):
        return load_data(data).development
    parts: Any = None
    if isinstance(data, Mapping) and "train" in data:
        names = [name for name in ("validation", "val", "valid") if name in data]
        if len(names) != 1 or len(data) != 2:
            only = (
                "give train and validation alone" if names else "validation examples are missing: give both"
            )
            raise InputError(f"the data has the parts {', '.join(map(str, data))}: {only}")
        parts = data["train"], data[names[0]]
    if parts is None:
        raise InputError(
            f"a method takes Development (train and validation), not {_kind(data)}: give data.development, or "
            "{'train': (x, y), 'validation': (x, y)}, so that nothing can be selected on test images"
        )
    return Development(to_split(parts[0], "train"), to_split(parts[1], "validation"))


def _no_labels_beside(y: Any, what: str) -> None:
    if y is not None:
        raise InputError(f"labels are given twice, in {what} and as y: give them once")


Columns = dict[int | str, Any]
"""The inputs of an example, of a batch or of all data: by position (0, 1, ...) or by name."""


def _pair(data: Any, what: str) -> tuple[Columns, Any, tuple[str, ...]] | None:
    """(inputs, labels or None, notes) of what holds both; None of what is x itself."""
    if _is_array(data):
        return None
    if isinstance(data, Inputs):
        return _of_inputs(data), None, ()
    data = _by_name(data)
    if isinstance(data, Mapping):
        return _whole(*_of_mapping(data, what), what)
    if isinstance(data, DataLoader):
        return _of_loader(data, what)
    if isinstance(data, TensorDataset):
        return *_of_parts(data.tensors, what), ()
    if isinstance(data, tuple):
        return _whole(*_of_parts(data, what), what)
    if isinstance(data, list):
        if len(data) == 2 and all(map(_is_array, data)) and np.ndim(data[0]) > np.ndim(data[1]) > 0:
            return {0: data[0]}, data[1], ()  # a batch of a DataLoader
        if data and isinstance(data[0], tuple | Mapping):
            return _collected(data, what)
        return _whole({0: data}, None, what) if _is_ragged(data) else None
    if isinstance(data, IterableDataset):
        return _collected(data, what)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Sequence | bytes):
        return _collected((data[i] for i in range(len(data))), what)
    if isinstance(data, Iterator):
        raise InputError(f"{what} is an iterator, which can be read only once: give a DataLoader or arrays")
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return _collected(data, what, batches=True)
    raise InputError(f"{what}: expected {FORMS}, got {_kind(data)}")


def _of_inputs(x: Inputs) -> Columns:
    return dict((*enumerate(x.args), *((_MADE * (name in x.made) + name, v) for name, v in x.kwargs.items())))


def _by_name(item: Any) -> Any:
    """A dataclass as a dictionary of its fields, and so a named tuple whose last field is not the labels."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        return {name: value for name, value in fields.items() if value is not None}
    names = getattr(item, "_fields", ()) if isinstance(item, tuple) else ()
    return dict(zip(names, item, strict=True)) if any(name in _Y for name in names[:-1]) else item


def _of_mapping(data: Mapping[Any, Any], what: str) -> tuple[Columns, Any]:
    """Inputs by the names of the model's forward, and labels; a single input of a usual name is the first one."""
    inputs = [key for key in data if key not in _Y]
    labels = [key for key in data if key in _Y]
    parts = [key for key in data if key in ("train", "validation", "val", "test")]
    if not inputs or len(labels) > 1 or parts or not all(isinstance(key, str) for key in data):
        more = (
            f": give one of its parts, data[{parts[0]!r}]"
            if parts
            else ": expected inputs, and 'y' for labels"
        )
        listed = ", ".join(map(repr, list(data)[:8])) or "nothing in it"
        raise InputError(f"{what} is a dictionary with {listed}{more}")
    columns = {key: data[key] for key in inputs}
    if len(inputs) == 1 and inputs[0] in _X:
        columns = {0: data[inputs[0]]}
    return columns, data[labels[0]] if labels else None


def _of_parts(parts: Sequence[Any], what: str) -> tuple[Columns, Any]:
    """x, (x, y), (a, b, ..., y), or ({names of inputs}, y) and ((a, b), y)."""
    if not parts:
        raise InputError(f"{what} is empty: expected x, or (x, y)")
    inputs, labels = (parts, None) if len(parts) == 1 else (parts[:-1], parts[-1])
    if isinstance(inputs[0], Inputs) and len(inputs) == 1:
        return _of_inputs(inputs[0]), labels
    if len(inputs) > 1 or not isinstance(inputs[0], Mapping | tuple):
        return dict(enumerate(inputs)), labels
    if isinstance(inputs[0], tuple):
        return dict(enumerate(inputs[0])), labels
    columns, more = _of_mapping(inputs[0], what)
    if more is not None:
        _no_labels_beside(labels, what)
    return columns, more if labels is None else labels


def _of_item(item: Any, what: str) -> tuple[Columns, Any]:
    if isinstance(item, Inputs):
        return _of_inputs(item), None
    item = _by_name(item)
    if isinstance(item, Mapping):
        return _of_mapping(item, f"an item of {what}")
    plain = (
        isinstance(item, list) and bool(item) and not isinstance(item[0], Mapping) and np.ndim(item[0]) == 0
    )
    if isinstance(item, tuple | list) and not plain:
        return _of_parts(item, f"an item of {what}")
    return {0: item}, None


def _of_loader(loader: DataLoader[Any], what: str) -> tuple[Columns, Any, tuple[str, ...]]:
    """All examples of a loader, in the order of its data set where its own order is that or a shuffled one."""
    if loader.batch_sampler is None:  # each item as the data set gives it: an example, or a batch of its own
        return _collected(loader, what, batches=True)
    data: Any = loader.dataset
    # with a batch_sampler of the user's own, its batches are what is given
    plain = loader.batch_size is not None and (
        isinstance(loader.sampler, SequentialSampler)
        or (
            isinstance(loader.sampler, RandomSampler)
            and not loader.sampler.replacement
            and len(loader.sampler) == len(data)
        )
    )
    collate = loader.collate_fn
    if isinstance(data, TensorDataset) and plain and collate is torch.utils.data.default_collate:
        return *_of_parts(data.tensors, what), ()
    batches: Iterable[Any] = loader
    if plain and not isinstance(data, IterableDataset):
        parts = (range(i, min(i + _BATCH, len(data))) for i in range(0, len(data), _BATCH))
        batches = (collate([data[i] for i in part]) for part in parts)
    found = [_of_item(batch, what) for batch in batches]
    if not found:
        raise InputError(f"{what}: the DataLoader gives no batch")
    return _together(found, False, what)


def _collected(
    items: Iterable[Any], what: str, batches: bool = False
) -> tuple[Columns, Any, tuple[str, ...]]:
    """The items of a data set, one example each, together; `batches`: they may also be batches with their labels."""
    found = [_of_item(item, what) for item in items]
    if not found:
        raise InputError(f"{what} holds no example")
    first, labels = found[0]
    lengths = {np.shape(value)[:1] for value in (*first.values(), labels)}
    return _together(
        found, not (batches and labels is not None and lengths != {()} and len(lengths) == 1), what
    )


def _together(
    found: list[tuple[Columns, Any]], single: bool, what: str
) -> tuple[Columns, Any, tuple[str, ...]]:
    """Examples (`single`) or batches joined, input by input; sequences of different lengths are padded."""
    names = list(found[0][0])
    for columns, _ in found:
        if set(columns) != set(names):
            raise InputError(
                f"{what}: one item has the inputs {_names(names)} and another {_names(columns)}: all need the same"
            )
    joined: Columns = {}
    lengths: Columns = {}
    for name in names:
        called = "an item" if name == 0 else f"{name} of an item"
        if all(columns[name] is None for columns, _ in found):
            joined[name] = None
            continue
        parts = [_numbers(columns[name], called)[0] for columns, _ in found]
        joined[name], lengths[name] = _joined(parts, single, 0, what)
    labels = None
    without = sum(label is None for _, label in found)
    if 0 < without < len(found):
        raise InputError(
            f"{what}: {without} of {len(found)} items have no labels: give all of them labels, or none"
        )
    if not without:
        labels, _ = _joined([_numbers(label, "y of an item")[0] for _, label in found], single, -100, what)
    return _masked(joined, lengths), labels, _padding(lengths)


def _whole(columns: Columns, labels: Any, what: str) -> tuple[Columns, Any, tuple[str, ...]]:
    """Inputs and labels of all examples, of which lists of sequences of different lengths are padded."""
    joined, lengths = dict(columns), {}
    for name, value in columns.items():
        if _is_ragged(value):
            joined[name], lengths[name] = _joined([_numbers(v, what)[0] for v in value], True, 0, what)
    if _is_ragged(labels):
        labels, _ = _joined([_numbers(v, "y")[0] for v in labels], True, -100, what)
    return _masked(joined, lengths), labels, _padding(lengths)


def _is_ragged(value: Any) -> bool:
    """Whether this is a list of sequences of different lengths."""
    if isinstance(value, np.ndarray):
        return value.dtype == object and value.ndim == 1 and _is_ragged(list(value))
    if not isinstance(value, list | tuple) or not value:
        return False
    nested = all(isinstance(v, list | tuple | np.ndarray | Tensor) and np.ndim(v) > 0 for v in value[:1])
    return nested and len({len(v) if hasattr(v, "__len__") else -1 for v in value}) > 1


def _masked(joined: Columns, lengths: Columns) -> Columns:
    """The inputs with the mask of those that were padded, where they have none."""
    for name, sizes in lengths.items():
        mask = "decoder_attention_mask" if str(name).startswith("decoder_") else "attention_mask"
        if sizes is not None and mask not in joined:
            places = torch.arange(joined[name].shape[1])
            joined[_MADE + mask] = (places < sizes[:, None]).long()
            lengths = {**lengths, name: None}
    return joined


def _padding(lengths: Columns) -> tuple[str, ...]:
    longest = [(int(s.max()), int(s.min())) for s in lengths.values() if s is not None]
    if not longest:
        return ()
    most, least = longest[0]
    return (f"sequences of {least} to {most} places are padded to {most}, with a mask",)


def _names(columns: Iterable[int | str]) -> str:
    return ", ".join("x" if name == 0 else str(name) for name in columns)


def _joined(parts: list[Tensor], single: bool, fill: int, what: str) -> tuple[Tensor, Tensor | None]:
    """Examples (`single`) stacked, or batches one after the other; their lengths where they had to be padded.

    Raises:
        InputError: if they differ in more than the length of a sequence.
    """
    axis = 0 if single else 1
    shapes = {tuple(part.shape[axis:]) for part in parts}
    if len(shapes) == 1:
        return (torch.stack if single else torch.cat)(parts), None  # type: ignore[operator]
    if len({shape[1:] for shape in shapes}) > 1 or not all(shapes):
        shown = sorted({tuple(part.shape) for part in parts})[:3]
        raise InputError(
            f"{what}: examples have different shapes ({', '.join(map(str, shown))}): pad or resize them to one"
        )
    most = max(shape[0] for shape in shapes)
    padded = []
    for part in parts:
        pad = [0, 0] * (part.dim() - axis - 1) + [0, most - part.shape[axis]]
        padded.append(torch.nn.functional.pad(part, pad, value=fill))
    sizes = torch.tensor([part.shape[axis] for part in parts for _ in range(1 if single else len(part))])
    return (torch.stack if single else torch.cat)(padded), sizes  # type: ignore[operator]


def _batch_of(columns: Columns, what: str) -> tuple[Batch, tuple[str, ...]]:
    """The inputs as one tensor, or several in types that models take: integers as int64."""
    if list(columns) == [0]:
        return _numbers(columns[0], what)
    notes: list[str] = []
    found: dict[int | str, Any] = {}
    for name, value in columns.items():
        if value is None or isinstance(value, bool | int | float):
            found[name] = value  # the same for all examples
            continue
        tensor, _ = _numbers(value, _names([name]))
        found[name], note = in_type(tensor)
        notes += [f"{_names([name])} {note}"] if note else []
    args = tuple(found[name] for name in sorted(name for name in found if isinstance(name, int)))
    named = {str(name).removeprefix(_MADE): value for name, value in found.items() if isinstance(name, str)}
    made = frozenset(
        name.removeprefix(_MADE) for name in found if isinstance(name, str) and name.startswith(_MADE)
    )
    return Inputs(args, named, made), tuple(notes)


def _numbers(value: Any, what: str) -> tuple[Tensor, tuple[str, ...]]:
    """A dense real tensor of whatever holds numbers."""
    if isinstance(value, Tensor):
        if value.is_complex() or value.is_quantized or value.layout is not torch.strided:
            raise InputError(
                f"{what} is a tensor of {value.dtype} with layout {value.layout}: dense real numbers are needed"
            )
        return value.detach(), ()
    if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
        return _joined([_numbers(part, what)[0] for part in value], True, 0, what)[0], ()
    if hasattr(value, "to_numpy"):  # a data frame or series
        value = _of_frame(value, what)
    if hasattr(value, "toarray"):  # a sparse matrix of SciPy
        value = value.toarray()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        raise InputError(
            f"{what}: lists of different lengths are not an array: pad them to one length"
        ) from None
    if array.dtype.kind not in "biuf":
        content = "Python objects" if array.dtype.kind == "O" else f"{array.dtype}"
        advice = "" if array.dtype.kind not in "US" else ": turn words into tokens, or leave it out"
        if what in ("y", "y of an item") and advice:
            advice = ": number the classes from 0"
        name = (
            ""
            if array.dtype.kind != "O" or array.ndim
            else f" ({_kind(value)}; give transform=ToTensor() for images)"
        )
        raise InputError(f"{what} holds {content}{name}: numbers are needed{advice}")
    array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype == np.longdouble and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array.reshape(np.shape(value) if array.ndim else ())), ()


def _of_frame(frame: Any, what: str) -> Any:
    """The numbers of a data frame or series; columns of different types of numbers become float64.

    Raises:
        InputError: naming the columns that hold anything else.
    """
    kinds: Any = getattr(frame, "dtypes", None)
    if not hasattr(kinds, "items"):  # a series, or a frame of another library
        return frame.to_numpy()
    others = [str(name) for name, dtype in kinds.items() if getattr(dtype, "kind", "O") not in "biuf"]
    if others:
        raise InputError(
            f"{what}: the columns {', '.join(others[:4])} hold no numbers: leave them out, or encode them"
        )
    array = frame.to_numpy()
    return array if array.dtype.kind in "biuf" else frame.to_numpy(dtype="float64")


def _labels(y: Any, n: int) -> Tensor:
    """Class numbers, (n,) or (n, places...) int64; or real targets, float64."""
    labels = _numbers(y, "y")[0].cpu()
    if labels.dim() and len(labels) != n:
        raise InputError(
            f"y has shape {tuple(labels.shape)} and x holds {n} examples: one label per example is needed"
        )
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() == 0:
        raise InputError(f"y is the single number {labels.item()}: labels have shape ({n},)")
    return labels_of(labels.numpy())


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "to_numpy") or hasattr(value, "__array__")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
