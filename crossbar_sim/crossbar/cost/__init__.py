"""First-order energy, latency and area, each number with its source. An estimate, not a sign-off (docs/cost.md)."""

from crossbar_sim.crossbar.cost.model import (
    ESTIMATE,
    PARTS,
    Converters,
    Cost,
    Estimate,
    Work,
    adc_of,
    cost_of,
    total,
)
from crossbar_sim.crossbar.cost.technology import (
    Constant,
    Technology,
    conversion_energy,
    converter_area,
    technology,
    technology_names,
)

__all__ = [
    "ESTIMATE", "PARTS", "Constant", "Converters", "Cost", "Estimate", "Technology", "Work", "adc_of",
    "conversion_energy", "converter_area", "cost_of", "technology", "technology_names", "total",
]  # fmt: skip
