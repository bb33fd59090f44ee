"""Former path of `crossbar_sim.nn.analog.chips`; it works for this version. `design` is now `analog_state`."""

from crossbar_sim.nn.analog.chips import (
    analog_state,
    frozen,
    layers,
    locked,
    only_layers,
    program,
    set_chip,
    set_hardware,
    slots,
)

design = analog_state

__all__ = [
    "analog_state", "design", "frozen", "layers", "locked", "only_layers", "program", "set_chip", "set_hardware",
    "slots",
]  # fmt: skip
