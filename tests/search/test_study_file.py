"""The file of a study: what is written is read, all or nothing."""

import pytest

from crossbar_sim import InputError
from crossbar_sim.search.study_file import StudyFile, Trial

IDENTITY = {"search": "one"}
FIRST = Trial(0, {"x": 0.25}, 0.5, 0.01, 1.5, {"scores": [0.4, 0.6]})
SECOND = Trial(1, {"x": 0.75}, 0.75)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("trials", [(), (FIRST,), (FIRST, SECOND), (SECOND, FIRST)])
def test_trials_are_read_in_the_order_of_their_numbers(tmp_path, in_memory, trials):
    path = None if in_memory else tmp_path / "study.db"
    file = StudyFile(path, IDENTITY)
    file.add(trials)
    file.add(trials)  # the same trial again changes nothing
    expected = tuple(sorted(trials, key=lambda trial: trial.number))
    assert file.trials() == expected
    file.close()
    file.close()
    if path is not None:
        again = StudyFile(path, IDENTITY)
        assert again.trials() == expected
        assert [trial.seconds for trial in again.trials()] == [trial.seconds for trial in expected]
        again.close()


@pytest.mark.parametrize(
    "changed", [Trial(0, {"x": 0.25}, 0.6, 0.01), Trial(0, {"x": 0.3}, 0.5, 0.01)], ids=["value", "point"]
)
def test_another_outcome_of_a_trial_is_refused_and_nothing_is_added(tmp_path, changed):
    file = StudyFile(tmp_path / "study.db", IDENTITY)
    file.add([FIRST])
    with pytest.raises(InputError, match="trial 0"):
        file.add([SECOND, changed])
    assert file.trials() == (FIRST,)
    file.close()


def test_a_file_of_another_identity_is_refused(tmp_path):
    StudyFile(tmp_path / "study.db", IDENTITY).close()
    with pytest.raises(InputError, match="search"):
        StudyFile(tmp_path / "study.db", {"search": "another"})
