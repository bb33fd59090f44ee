"""Torch models on simulated crossbars: conversion, evaluation, loading, training."""

from crossbar_sim.nn.analog.chips import layers, only_layers, program, set_chip, set_hardware
from crossbar_sim.nn.analog.conversion import to_analog
from crossbar_sim.nn.analog.range_calibration import calibrate_ranges
from crossbar_sim.nn.analog.state import Layer
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.files.loading import LoadedModel, load_model
from crossbar_sim.nn.networks import MLP, NETWORKS, LeNet5
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.nn.training.augment import Augment, Normalise
from crossbar_sim.nn.training.loop import FitReport, accuracy, fit
from crossbar_sim.nn.training.settings import Training

__all__ = [
    "MLP",
    "NETWORKS",
    "Augment",
    "FitReport",
    "Layer",
    "LeNet5",
    "LoadedModel",
    "Normalise",
    "Training",
    "accuracy",
    "calibrate_ranges",
    "fit",
    "layers",
    "load_model",
    "only_layers",
    "permutation",
    "program",
    "save_checkpoint",
    "seeded",
    "set_chip",
    "set_hardware",
    "to_analog",
]
