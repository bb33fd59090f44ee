"""Augmentation and normalisation of images that are tensors already."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import whole_numbers
from crossbar_sim.rng import Key
from crossbar_sim.validate import is_int, show, unknown


@dataclass(frozen=True)
class Augment:
    """Random shifts and mirror images of a batch (b, channels, h, w), drawn again in every epoch.

    Args:
        crop: every image is padded with so many pixels on each side, and a window of its own size is cut out
            anywhere: a shift by at most `crop` pixels each way (4 is usual for CIFAR-10).
        flip: half of the images are mirrored left to right (not for digits or signs); "alternating": a random half in
            the first epoch, the other half in the second, and so on, so that two epochs show every image both ways
            (Jordan, 2024, arXiv:2404.00498).
        padding: "zeros", or "reflect": the image's own pixels, mirrored at its edge.

    Raises:
        InputError: if neither does anything, or a value is not allowed.
    """

    crop: int = 0
    flip: bool | Literal["alternating"] = False
    padding: Literal["zeros", "reflect"] = "zeros"

    def __post_init__(self) -> None:
        if not is_int(self.crop) or self.crop < 0:
            raise InputError(f"crop={self.crop!r}: a number of pixels >= 0 is needed")
        if not isinstance(self.flip, bool) and self.flip != "alternating":
            raise InputError(f"flip={self.flip!r}: True, False or 'alternating' is needed")
        if self.padding not in ("zeros", "reflect"):
            raise InputError(f"padding={self.padding!r} must be one of zeros, reflect")
        if self.padding != "zeros" and not self.crop:
            raise InputError(
                f"padding={self.padding!r} with crop=0: nothing is padded, set crop or leave it out"
            )
        if not self.crop and not self.flip:
            raise InputError(
                "an augmentation with crop=0 and flip=False does nothing: set one, or leave it out"
            )

    @classmethod
    def of(cls, given: object, where: str) -> "Augment":
        """From a table of its fields, as files and the command line give it.

        Raises:
            InputError: naming `where` and the field.
        """
        if isinstance(given, Augment):
            return given
        if not isinstance(given, dict):
            raise InputError(f"{where}={show(given)}: expected a table such as {{crop = 2, flip = true}}")
        for name in given:
            if name not in (known := [f.name for f in fields(cls)]):
                raise InputError(unknown(f"[{where}]: the key", name, known))
        try:
            return cls(**given)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def __repr__(self) -> str:
        # Part of the text by which trainings are known: `padding` came later, and is in it only where it acts.
        named = [f.name for f in fields(self) if f.name != "padding" or self.padding != "zeros"]
        return f"Augment({', '.join(f'{name}={getattr(self, name)!r}' for name in named)})"

    def check(self, x: Tensor) -> None:
        """Refuse examples (n, ...) that are not images, or too small for the shift.

        Raises:
            InputError: with their shape.
        """
        if x.ndim != 4:
            raise InputError(
                f"examples of shape {tuple(x.shape[1:])} cannot be shifted or mirrored: images are (channels, h, w)"
            )
        if self.padding == "reflect" and self.crop >= min(x.shape[2:]):
            raise InputError(
                f"crop={self.crop} with padding='reflect': images of {x.shape[2]} x {x.shape[3]} pixels reflect "
                f"at most {min(x.shape[2:]) - 1}"
            )

    def draw(self, n: int, key: Key, epoch: int, device: torch.device) -> Tensor:
        """Random parameters for each of n images: (n, 3) int64 on the device, shift down, shift right, mirrored.

        Drawn on the CPU by name, so that it is the same on every device and in a training that goes on.

        Args:
            n: images.
            key: of the training's augmentation.
            epoch: from 1.
            device: where the result goes.
        """
        side = 2 * self.crop + 1
        own = key.fold(str(epoch))
        shifts = whole_numbers((n, 2), side, own.fold("crop"))
        if self.flip == "alternating":
            mirrored = (whole_numbers((n, 1), 2, key.fold("flip")) + epoch) % 2
        else:
            mirrored = whole_numbers((n, 1), 2 if self.flip else 1, own.fold("flip"))
        return torch.cat([shifts, mirrored], dim=1).to(device)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """The batch (b, channels, h, w), transformed by the rows (b, 3) of `draw` in one gather."""
        b, _, h, w = x.shape
        c = self.crop
        padded = nn.functional.pad(x, (c, c, c, c), "constant" if self.padding == "zeros" else "reflect")
        down, right, mirrored = drawn.unsqueeze(2).unbind(1)
        columns = torch.arange(w, device=x.device)
        columns = torch.where(mirrored == 1, w - 1 - columns, columns) + right
        rows = torch.arange(h, device=x.device) + down
        images = torch.arange(b, device=x.device)[:, None, None]
        return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


class Normalise(nn.Module):
    """(x - mean) / std per channel, as the first layer of a network: then a deployed model carries it along.

    Both are buffers: saved with the network, digital, and never trained.

    Args:
        mean, std: one number per channel.

    Raises:
        InputError: if they are not as many, or a std is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise InputError(
                f"{len(mean)} means and {len(std)} stds: as many of both are needed, one per channel"
            )
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(values, dtype=torch.float32)
            if not bool(tensor.isfinite().all()) or (name == "std" and not bool((tensor > 0).all())):
                raise InputError(f"{name}={list(values)}: finite numbers are needed, and stds above 0")
            self.register_buffer(name, tensor)

    @classmethod
    def of(cls, x: Tensor) -> "Normalise":
        """The normalisation that gives examples (n, channels, ...) mean 0 and variance 1 per channel.

        Raises:
            InputError: if a channel is the same everywhere.
        """
        columns = x.transpose(0, 1).flatten(1).double()
        return cls(columns.mean(1).tolist(), columns.std(1, correction=0).tolist())

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, channels, ...) of the same shape."""
        shape = (-1, *(1,) * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)
