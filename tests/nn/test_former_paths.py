"""Paths of an earlier version that documents or scripts used still lead to the same objects."""

import importlib

import pytest

from crossbar_sim.nn.analog.chips import analog_state, set_chip
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.files.loading import load_model


@pytest.mark.parametrize(
    ("module", "name", "present"),
    [
        ("crossbar_sim.nn.loading", "load_model", load_model),
        ("crossbar_sim.nn.chips", "design", analog_state),
        ("crossbar_sim.nn.chips", "set_chip", set_chip),
        ("crossbar_sim.nn.checkpoint", "save_checkpoint", save_checkpoint),
    ],
)
def test_a_former_path_leads_to_the_same_object(module: str, name: str, present: object) -> None:
    assert getattr(importlib.import_module(module), name) is present
