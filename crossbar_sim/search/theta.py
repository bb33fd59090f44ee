"""Theta between the trials of an alternating search: one set of weights, kept in a file beside the study.

The file is replaced before the study is told, and holds what the study will be told: whenever a search is killed, the
two together say how to go on. It is a `torch.save` of tensors and plain values, read with `weights_only=True`.
"""

import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.nn.checkpoint import write_tensors
from crossbar_sim.search.loop import Told
from crossbar_sim.search.study import Study
from crossbar_sim.search.trial import Carried, Weights
from crossbar_sim.search.workers import Workers
from crossbar_sim.store.records import canonical
from crossbar_sim.text import check_depth

FORMAT = "crossbar-sim theta"
FORMAT_VERSION = 1


@dataclass
class Theta:
    """Weights, and where they come from.

    Args:
        weights: a state_dict.
        done: the trials that they have been through.
        outcomes: of the last batch, as `Study.tell_all` takes them.
    """

    weights: Weights
    done: int = 0
    outcomes: list[tuple[int, float, float | None, float, dict[str, Any]]] = field(default_factory=list)


class ThetaFile:
    """Where theta is kept between trials; path None: nowhere.

    Raises:
        InputError: if it could not be written there.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = hashlib.sha256(canonical(dict(identity)).encode()).hexdigest()
        if path is not None:
            check_writable(path)

    def write(self, theta: Theta) -> None:
        """Replace the file once the new one is complete on disk."""
        if self.path is None:
            return
        content = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "study": self.identity, "weights": theta.weights,
            "done": theta.done, "outcomes": theta.outcomes,
        }  # fmt: skip
        write_tensors(self.path, content)

    def read(self) -> Theta | None:
        """What is there; None: nothing.

        Raises:
            InputError: if it is something else, or belongs to another study.
        """
        if self.path is None or not os.path.exists(self.path):
            return None
        refusal = f"{self.path} holds no weights of a search: move it away, or name another study"
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            check_depth(content)
            if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
                raise InputError(refusal)
            if content["study"] != self.identity:
                raise InputError(
                    f"{self.path} holds the weights of another study: move it away, or name another study"
                )
            outcomes = [_outcome(*each) for each in content["outcomes"]]
            return Theta(_tensors(content["weights"]), int(content["done"]), outcomes)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            OverflowError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise InputError(refusal) from error


def _outcome(number: int, value: float, variance: float | None, seconds: float, notes: Any) -> Any:
    return (
        int(number),
        float(value),
        None if variance is None else float(variance),
        float(seconds),
        dict(notes),
    )


def _tensors(weights: Any) -> Weights:
    if not all(isinstance(name, str) and torch.is_tensor(value) for name, value in weights.items()):
        raise TypeError("weights are tensors by name")
    return dict(weights)


def alternate(
    study: Study,
    file: ThetaFile,
    first: Weights,
    trials: int,
    trial: Carried,
    pool: Workers,
    progress: Told | None,
) -> Weights:
    """Algorithm 1: theta and alpha in turns.

    With one trial at a time that is the paper's. The trials of a larger batch start from the same theta, and the
    theta of the one that scored best goes on.

    Args:
        study: may hold trials already.
        file: where theta is kept.
        first: theta before the first trial.
        trials: how many there shall be, made up to whole batches.
        trial: what one does.
        pool: where.
        progress: called after every trial.

    Returns:
        Theta after the last trial.

    Raises:
        InputError: if study and weights do not belong together.
    """
    theta = _agreed(study, file, Theta(first))
    while study.done < trials:
        asked = study.ask()
        items = [(number, point, theta.weights) for number, point in asked]
        outcomes: list[Any] = [None] * len(asked)
        after: list[Weights] = [{}] * len(asked)
        for i, (measured, weights), seconds in pool.run(trial, items):
            scores = {"scores": list(measured.scores)}
            outcomes[i] = (asked[i][0], measured.mean, measured.variance, seconds, scores)
            after[i] = weights
        best = max(range(len(asked)), key=lambda i: (outcomes[i][1], -i))
        theta = Theta(after[best], asked[-1][0] + 1, outcomes)
        file.write(theta)
        _tell(study, theta.outcomes, progress)
    return theta.weights


def _agreed(study: Study, file: ThetaFile, first: Theta) -> Theta:
    """Theta as far as the study is, which is told what it missed."""
    theta, done = file.read() or first, study.done
    shapes = [
        {name: (value.shape, value.dtype, value.layout) for name, value in one.weights.items()}
        for one in (theta, first)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{file.path} holds the weights of another network: move it away, or name another study"
        )
    if theta.done == done:
        return theta
    missed: Sequence[Any] = [each for each in theta.outcomes if each[0] >= done]
    if theta.done == done + len(missed):
        study.tell_all(missed)
        return theta
    raise InputError(
        f"the study holds {done} trials and the weights beside it ({file.path}) have been through {theta.done}: an "
        "alternating search goes on with both; put both together, or search again into new files"
    )


def _tell(study: Study, outcomes: Sequence[Any], progress: Told | None) -> None:
    for told in study.tell_all(outcomes):
        if progress is not None:
            progress(told, study)
