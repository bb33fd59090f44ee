"""What one conversion costs: a regression over Murmann's survey of published converters.

B. Murmann, "ADC Performance Survey 1997-2023". The coefficients are those of the Accelergy ADC plug-in (MIT licence),
adc_data/model.yaml; they follow the frontier of the survey: the best published converters, not typical ones.
"""

import math

from crossbar_sim.crossbar.checks import require

LEAST_BITS = 4
"""The survey has no coarser converters: below, a conversion takes a comparison for each bit, each that of four bits."""


def conversion_energy(bits: int, node: float, rate: float) -> float:
    """Energy of one conversion in J.

    Args:
        bits: resolution; below 4, bits / 4 of the energy of 4 bits (one comparison per bit).
        node: of the process, in m.
        rate: conversions per second.

    Raises:
        InputError: unless the node lies in 5 .. 500 nm and the rate in 1e3 .. 1e11 per second.
    """
    require(5e-9 <= node <= 500e-9, f"node={node:g} m: the survey's regression holds for 5e-9 .. 500e-9 m")
    require(1e3 <= rate <= 1e11, f"rate={rate:g} conversions per second: the survey has 1e3 .. 1e11")
    b = max(bits, LEAST_BITS)
    merit = min(213.7807 - 2.8719 * math.log(rate), 128.307 + 3.22051 * math.ceil(b))  # Schreier's, in dB
    noise = 6.0206 * b + 1.7609  # signal to noise and distortion of b ideal bits, in dB
    scaled = math.exp(26.0496 + 1.88004 * math.log(node * 1e9) - 2.82913 * math.log(b) - 1.47020)
    return scaled / (2 * 10 ** ((merit - noise) / 10)) * 1e-12 * bits / b


def converter_area(bits: int, node: float, rate: float) -> float:
    """Area of one converter in m2; see `conversion_energy`."""
    energy = conversion_energy(bits, node, rate) * 1e12
    terms = 0.99328 * math.log(node * 1e9) + 0.18072 * math.log(rate) + 0.29912 * math.log(energy) + 1.34619
    return math.exp(terms) * 1e-12
