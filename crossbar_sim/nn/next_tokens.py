"""Labels of causal language models: the output at a place is judged by the token after it.

By the convention of transformers, labels are the tokens themselves and the model shifts them by one inside its loss.
Models return their outputs unshifted, so the labels are shifted here, once, before anything is compared with them.
"""

import dataclasses

import torch
from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch, Inputs, filled
from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import outputs

NOTE = (
    "each output is judged by the next token: the labels are the tokens, shifted by one as transformers does"
)

_NEAR = 1e-4
"""Differences of outputs, relative to the largest, that rounding can make."""


def attended(x: Batch) -> Tensor | None:
    """Which places are no padding, (n, t) bool, by the mask of transformers and tokenizers; None: all, or not known.

    The mask of a decoder counts where it has inputs of its own.

    Raises:
        InputError: if it is 0 everywhere.
    """
    if not isinstance(x, Inputs):
        return None
    decodes = any(name.startswith("decoder_input") for name in x.kwargs)
    mask = x.kwargs.get("decoder_attention_mask" if decodes else "attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not bool((mask == 0).any()):
        return None
    if not bool((mask != 0).any()):
        raise InputError("the attention mask is 0 everywhere: nothing would be judged")
    return (mask != 0).cpu()


def tokens_of(x: Batch) -> Tensor | None:
    """The tokens (n, t) whose successors a language model predicts, if there are any among the inputs."""
    if isinstance(x, Tensor):
        return x if x.dim() == 2 and not x.is_floating_point() else None
    if any(name.startswith("decoder_input") for name in x.kwargs):
        return None
    found = x.kwargs.get("input_ids", x.args[0] if x.args else None)
    return found if isinstance(found, Tensor) and found.dim() == 2 and not found.is_floating_point() else None


def judged_labels(
    model: nn.Module, x: Batch, y: Tensor | None, required: bool = False, fixed: int | None = None
) -> tuple[Tensor | None, bool]:
    """The labels that outputs are compared with, and whether they are the next tokens.

    Padding, where the attention mask is 0, gets -100, which is not judged. Labels that equal the tokens wherever they
    are judged are shifted by one if the model is causal, and the last place is not judged; so are the tokens
    themselves where there are no labels and the metric requires some.

    Args:
        model: clean, in evaluation mode.
        x: inputs with n examples.
        y: labels (n, t) or of another shape, or None.
        required: whether the metric cannot do without labels.
        fixed: the one batch size that the model accepts.
    """
    mask, ids = attended(x), tokens_of(x)
    if y is None and required and ids is not None:
        labels = ids.cpu().long()
    elif y is not None and not y.is_floating_point():
        labels = y
    else:
        return y, False
    if mask is not None and labels.shape == mask.shape:
        labels = torch.where(mask.to(labels.device), labels, -100)
    if ids is None or labels.shape != ids.shape or labels.shape[1] < 2:
        return (None if y is None else labels), False
    kept = labels >= 0
    same = bool(kept.any()) and torch.equal(labels[kept], ids.to(labels)[kept])
    if not same or not is_causal(model, x, ids, mask, fixed):
        return (None if y is None else labels), False
    shifted = torch.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    if mask is not None:  # the place before the first token of a sequence that is padded on the left
        shifted = torch.where(mask.to(labels.device), shifted, -100)
    return shifted, True


def is_causal(
    model: nn.Module, x: Batch, ids: Tensor, mask: Tensor | None = None, fixed: int | None = None
) -> bool:
    """Whether outputs (n, t, ...) depend on earlier tokens and on no later ones, tried by changing tokens.

    A model that looks at each token alone is a tagger, whose labels are not shifted.
    """
    row = 0 if mask is None else int(mask.sum(1).argmax())
    real = torch.arange(ids.shape[1]) if mask is None else mask[row].nonzero().flatten()
    if len(real) < 2:
        return False
    cut = int(real[len(real) // 2])
    few, mine = x[row : row + 1], ids[row : row + 1]
    least, most = int(ids.min()), int(ids.max())
    if least == most:
        least = most - 1 if most > 0 else most + 1

    def run(tokens: Tensor) -> Tensor:
        if isinstance(few, Tensor):
            given: Batch = tokens
        elif "input_ids" in few.kwargs:
            given = dataclasses.replace(few, kwargs={**few.kwargs, "input_ids": tokens})
        else:
            given = dataclasses.replace(few, args=(tokens, *few.args[1:]))
        return outputs(model, filled(given, fixed or 1), fixed or 1, fixed)[0][:1].cpu().float()

    def differences(part: slice) -> Tensor:
        """By how much the outputs at each place change with the tokens of a part."""
        other = mine.clone()
        other[:, part] = torch.where(mine[:, part] == least, most, least)
        return (before - run(other)).abs().amax(2)[0] > _NEAR * float(before.abs().max())

    try:
        before = run(mine)
        if before.dim() != 3 or before.shape[1] != ids.shape[1]:
            return False
        later, earlier = differences(slice(cut, None)), differences(slice(0, cut))
    except InputError:  # which the run on all examples says
        return False
    return not bool(later[:cut].any()) and bool(later[cut:].any()) and bool(earlier[cut:].any())
