"""The robustness curve of a network while another trainer trains it: a callback for Lightning, and for Hugging Face.

Both call `crossbar_sim.sweep` on the validation data after an evaluation and log the mean score at each sigma:

    Trainer(callbacks=[lightning_robustness(data)])                # lightning
    Trainer(model, ..., callbacks=[hugging_face_robustness(data)])  # transformers
"""

from collections.abc import Callable, Iterable
from typing import Any

import crossbar_sim as cs


def robustness_scores(
    model: Any, data: Any, sigmas: Iterable[float] = (0.0, 0.3, 0.6), chips: int = 5
) -> dict[str, float]:
    """Mean score at each sigma, under the names that a logger shows; the model is left as it was."""
    training = model.training
    sweep = cs.sweep(model.eval(), data, sigmas=sigmas, chips=chips)
    model.train(training)
    (label,) = sweep.labels
    return {f"robustness/sigma_{point.sigma:g}": point.summary.mean for point in sweep.curve(label)}


def lightning_robustness(data: Any, every: int = 5, **options: Any) -> Any:
    """A callback of Lightning's Trainer that logs after every `every`-th validation."""
    from lightning.pytorch import Callback

    class Robustness(Callback):
        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            if not trainer.sanity_checking and trainer.current_epoch % every == 0:
                module.log_dict(robustness_scores(module, data, **options))

    return Robustness()


def hugging_face_robustness(
    data: Any, log: Callable[[dict[str, float]], None] = print, **options: Any
) -> Any:
    """A callback of transformers' Trainer that logs after every evaluation."""
    from transformers import TrainerCallback

    class Robustness(TrainerCallback):
        def on_evaluate(
            self, args: Any, state: Any, control: Any, model: Any = None, **keywords: Any
        ) -> None:
            log(robustness_scores(model, data, **options))

    return Robustness()
