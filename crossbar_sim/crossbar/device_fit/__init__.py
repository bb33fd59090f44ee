"""Programming and drift laws of a measured device: a table in, a `Hardware` and its uncertainty out."""

from crossbar_sim.crossbar.device_fit.fit import DeviceFit, Parameter, fit_device
from crossbar_sim.crossbar.device_fit.measurements import Measurements, read_measurements
from crossbar_sim.crossbar.device_fit.quality import Quality

__all__ = ["DeviceFit", "Measurements", "Parameter", "Quality", "fit_device", "read_measurements"]
