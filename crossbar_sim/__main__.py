"""`python -m crossbar_sim`: the command line."""

from crossbar_sim.cli import main

main()
