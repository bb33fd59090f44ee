"""Fit programming noise and drift laws to measurements of a device."""

from crossbar_sim.crossbar.device_fit.fit import DeviceFit, Parameter, fit_device
from crossbar_sim.crossbar.device_fit.measurements import Measurements, read_measurements
from crossbar_sim.crossbar.device_fit.quality import Quality

__all__ = ["DeviceFit", "Measurements", "Parameter", "Quality", "fit_device", "read_measurements"]
