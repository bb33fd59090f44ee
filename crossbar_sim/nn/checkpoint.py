"""Former path of `crossbar_sim.nn.files.checkpoint`; it works for this version."""

from crossbar_sim.nn.files.checkpoint import save_checkpoint

__all__ = ["save_checkpoint"]
