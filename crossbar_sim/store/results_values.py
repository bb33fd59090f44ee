"""What goes into a results file's columns, and comes out of them checked."""

from typing import Any, NamedTuple

from crossbar_sim.errors import InputError
from crossbar_sim.store.records import Task, canonical
from crossbar_sim.text import parse_json


class Disagreement(InputError):
    """Two different values for one thing.

    Args:
        message: a sentence with both values, without the name of a file.
        where: (table, task id, and what names the thing within the task).
    """

    def __init__(self, message: str, where: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.where = where


class Count(NamedTuple):
    """How many chips were measured on so many images at one sigma, and the mean of their values."""

    sigma: float
    images: int
    chips: int
    mean: float


def read_task(path: str, task_id: str, label: str, identity: str, about: str, clean: float) -> Task:
    """A row of the table of tasks.

    Raises:
        InputError: if it is not what its id says.
    """
    what = f"task {task_id[:12]!r}"
    try:
        task = Task(label, _read_json(identity, what), clean, _read_json(about, what))
        same = task.id == task_id and canonical(task.identity) == identity
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not same:
        raise InputError(
            f"{path} is damaged or was changed: the identity of {what} has the SHA-256 {task.id[:12]}; "
            "take a copy that is whole, or run it again into a new file"
        )
    return task


def read_detail(path: str, name: str, content: str) -> Any:
    """The value of a detail.

    Raises:
        InputError: if it is no JSON.
    """
    try:
        return _read_json(content, f"detail {name!r}")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from None


def text(label: str) -> str:
    """A name of a file may hold bytes that are no characters; SQLite's text may not."""
    return label.encode("utf-8", "backslashreplace").decode("utf-8")


def score(value: float, variance: float) -> str:
    """A trial's value, for a sentence."""
    return f"{value!r}" + (f" (variance {variance!r})" if variance else "")


def short(content: str) -> str:
    """JSON for a sentence: what is long is cut."""
    plain = "".join(c if c.isprintable() else "?" for c in content[:80])
    return plain if len(content) <= 80 else f"{plain[:77]}..."


def _read_json(content: str, what: str) -> Any:
    try:
        return parse_json(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be read as JSON ({error})") from None
