"""What the command solve does, between options and printing: tables of numbers, the solution, its figure."""

from crossbar_sim.solving.run import run_solve as run_solve
