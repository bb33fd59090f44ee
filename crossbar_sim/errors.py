"""What the package says about its input: the one exception, and the one kind of warning."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class InputError(ValueError):
    """A value, file or combination that cannot be used.

    The message is one sentence with the cause and the remedy, quoting what was given and what is
    allowed. The command line prints it on one line and exits with code 2; from Python it is a
    `ValueError`. Anything else that escapes is a defect of crossbar-sim and shows its traceback.
    """


class CrossbarWarning(UserWarning):
    """A requested effect cannot act, or a number is less certain than it looks.

    Python functions issue it; the command line prints the same sentences in its report instead.
    """


_HELD: ContextVar[bool] = ContextVar("crossbar_sim_warnings_held", default=False)


def warn(sentences: Iterable[str], category: type[Warning] = CrossbarWarning) -> None:
    """Issue each sentence as a warning at the caller outside this package, unless `silenced_warnings` is active."""
    if _HELD.get():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    for sentence in sentences:
        warnings.warn(sentence, category, stacklevel=level)


@contextmanager
def silenced_warnings() -> Iterator[None]:
    """Inside, `warn` is silent: the caller reports the same sentences itself."""
    token = _HELD.set(True)
    try:
        yield
    finally:
        _HELD.reset(token)


def _ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == "crossbar_sim"
