"""How a solution ended: sentences for the user, in one place."""

from enum import Enum


class Outcome(Enum):
    """What a solver can say of its result; the value is the sentence."""

    SOLVED = "solved: the currents are within the tolerance"
    EXACT = "solved by elimination: the currents are exact but for rounding"
    STEPS = (
        "not solved: the fast method ran out of steps, as it does when many cells are close to a short, and the exact "
        "one would take too much memory; allow a larger tolerance, or divide the tile"
    )
    NEWTON = (
        "not solved: Newton's steps for cells that are not ohmic ran out; lower the voltages or the cells' "
        "non-linearity"
    )

    @property
    def solved(self) -> bool:
        """Whether the currents can be used."""
        return self in (Outcome.SOLVED, Outcome.EXACT)
