"""The wires of a tile: IR drop as effective conductances, every node's voltage, and cells that are not ohmic."""

from crossbar_sim.crossbar.wires.nodes import Cell as Cell
from crossbar_sim.crossbar.wires.nodes import Milo2021 as Milo2021
from crossbar_sim.crossbar.wires.nodes import Outcome as Outcome
from crossbar_sim.crossbar.wires.nodes import Sinh as Sinh
from crossbar_sim.crossbar.wires.nodes import Solution as Solution
from crossbar_sim.crossbar.wires.nodes import SolvedInputs as SolvedInputs
from crossbar_sim.crossbar.wires.nodes import currents_by_solving_each_input as currents_by_solving_each_input
from crossbar_sim.crossbar.wires.nodes import ideal_currents as ideal_currents
from crossbar_sim.crossbar.wires.nodes import solve_inputs as solve_inputs
from crossbar_sim.crossbar.wires.nodes import solve_nodes as solve_nodes
from crossbar_sim.crossbar.wires.wires import Wires as Wires
