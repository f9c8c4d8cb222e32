"""Stochastic processes over tokens whose ideal observer is known exactly."""

from nextlens.models.processes.process import Process
from nextlens.models.processes.zoo import (
    PROCESSES,
    even,
    golden_mean,
    mess3,
    process_by_name,
    rrxor,
    zero_one_random,
)

__all__ = [
    "PROCESSES",
    "Process",
    "even",
    "golden_mean",
    "mess3",
    "process_by_name",
    "rrxor",
    "zero_one_random",
]
