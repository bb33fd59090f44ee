"""The normalisation layers that the networks take, by name; None is none, as in the BayesFT paper.

| name | of images (b, c, h, w), over | of values (b, n), over | parameters |
|---|---|---|---|
| batch | batch and pixels, each channel by itself | the batch, each value by itself | scale and shift of each |
| layer | channels and pixels: one group | the values | scale and shift of each |
| instance | pixels, each channel by itself | the values | none |
| group | pixels of a group of channels | a group of values | scale and shift of each |

Without parameters (instance) there is none that could drift; docs/networks.md.
"""

from torch import nn

from crossbar_sim.errors import InputError

NORMALISATIONS = ("batch", "layer", "instance", "group")


def normalisation_name(name: object) -> str | None:
    """Return the name of a normalisation, or None for none; raises InputError naming the known ones."""
    if name is None or (isinstance(name, str) and name in NORMALISATIONS):
        return name
    raise InputError(f"normalisation={name!r} is unknown: choose from None, {', '.join(NORMALISATIONS)}")


def of_images(name: str | None, channels: int) -> nn.Module:
    """The layer for images (b, channels, h, w); it does nothing where `name` is None."""
    if name is None:
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    # 32 groups are the default of Wu and He (arXiv:1803.08494), whose networks begin with 64 channels.
    most = 32 if channels >= 64 and channels % 32 == 0 else 4
    return nn.GroupNorm(_groups(channels, most, 1), channels)


def of_values(name: str | None, features: int) -> nn.Module:
    """The layer for values (b, features); it does nothing where `name` is None.

    Raises:
        InputError: one value is to be normalised by itself, which would leave nothing of it.
    """
    if name is None:
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm1d(features)
    if features < 2:
        raise InputError(
            f"normalisation={name!r} of a layer of {features} value leaves nothing of it: "
            "make the layer wider, or choose 'batch' or None"
        )
    if name == "group":
        return nn.GroupNorm(_groups(features, 4, 2), features)
    return nn.LayerNorm(features, elementwise_affine=name == "layer")


def _groups(n: int, most: int, smallest: int) -> int:
    """The largest number of equal groups up to `most`, of at least `smallest` members."""
    return max(g for g in range(1, most + 1) if n % g == 0 and n // g >= smallest)
