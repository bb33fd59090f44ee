"""Warnings: issued to Python users at their own line, printed once by the command line."""

import warnings

import pytest
import torch
from torch import nn

from crossbar_sim import CrossbarWarning, Differential, Hardware
from crossbar_sim.nn import fit, to_analog
from crossbar_sim.robustness import deploy, robustness

X = torch.sin(torch.arange(600.0) * 1.7).reshape(100, 6)
Y = torch.arange(100) % 2
IDLE = Hardware(Differential(copies=4), normalisation="folded")


def issued(call) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [each for each in caught if issubclass(each.category, CrossbarWarning)]


@pytest.mark.parametrize("function", ["to_analog", "deploy", "robustness"])
def test_what_cannot_act_is_warned_of_once_and_at_the_callers_line(function):
    model = nn.Linear(6, 2)
    call = {
        "to_analog": lambda: to_analog(model, IDLE),
        "deploy": lambda: deploy(model, X, Y, IDLE, chips=2),
        "robustness": lambda: robustness({"m": model}, (X, Y), IDLE, [0.1], chips=2),
    }[function]
    found = issued(call)
    texts = [str(each.message) for each in found]
    assert sum("no batch normalisation" in text for text in texts) == 1
    assert all(each.filename == __file__ for each in found)


def test_accuracy_near_chance_names_the_pixels():
    pixels = X.abs() * 255
    words = "near chance.*divided by 255"
    with pytest.warns(CrossbarWarning, match=words):
        deploy(nn.Linear(6, 2), pixels, (torch.sin(torch.arange(100.0)) > 0).long(), IDLE, chips=2)
    with pytest.warns(CrossbarWarning, match="near chance"):
        fit(nn.Linear(6, 2), (X, Y), (X, Y), epochs=1, lr=1e-6)


def test_the_command_line_says_what_to_give(command, files, tmp_path):
    given = ("--data", files.labelled, "--adc-bits", 6, "--chips", 2, "--sensitivity-chips", 0)
    refused = command("deploy", files.checkpoint, *given)
    assert refused.code == 2
    assert "x_train" in refused.err
    assert "--calibration-data FILE" in refused.err
    assert command("deploy", files.checkpoint, *given, "--calibration-data", files.unlabelled).code == 0
    several = command("deploy", files.checkpoint, "--sigma", "0.3,0.6")
    assert several.code == 2
    assert "crossbar-sim sweep --sigma 0.3,0.6" in several.err
    text = command("export", files.checkpoint, tmp_path / "x.csv")
    assert text.code == 2
    assert "NAME.h5" in text.err
    assert not (tmp_path / "x.csv").exists()


def test_the_command_line_issues_none(command, files):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CrossbarWarning)
        result = command("deploy", files.checkpoint, "--copies", 4, "--sigma", 0, "--chips", 2)
    assert result.code == 0
    text = result.out + result.err
    assert "CrossbarWarning" not in text
