"""Torch models on simulated crossbars: conversion, evaluation, loading, training."""

from crossbar_sim.nn.chips import layers, only_layers, program, set_chip, set_hardware
from crossbar_sim.nn.convert import to_analog
from crossbar_sim.nn.layer import Layer
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.nn.train import FitReport, accuracy, fit

__all__ = [
    "FitReport",
    "Layer",
    "accuracy",
    "fit",
    "layers",
    "only_layers",
    "permutation",
    "program",
    "seeded",
    "set_chip",
    "set_hardware",
    "to_analog",
]
