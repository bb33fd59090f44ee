"""Former path of `crossbar_sim.nn.files.loading`; it works for this version."""

from crossbar_sim.nn.files.loading import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
