"""Torch models on simulated crossbars: conversion, evaluation, loading, training."""

from crossbar_sim.nn.augment import Augment, Normalise
from crossbar_sim.nn.checkpoint import save_checkpoint
from crossbar_sim.nn.chips import layers, only_layers, program, set_chip, set_hardware
from crossbar_sim.nn.convert import to_analog
from crossbar_sim.nn.layer import Layer
from crossbar_sim.nn.loading import LoadedModel, load_model
from crossbar_sim.nn.networks import MLP, NETWORKS, LeNet5
from crossbar_sim.nn.range_calibration import calibrate_ranges
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.nn.train import FitReport, accuracy, fit
from crossbar_sim.nn.training import Training

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
