"""What the command run does: an experiment's file, from its checks to its page."""

from crossbar_sim.experimenting.running import run_experiment

__all__ = ["run_experiment"]
