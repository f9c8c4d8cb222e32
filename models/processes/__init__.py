"""Stochastic processes over tokens whose ideal observer is known exactly."""

from nextlens.models.processes.constructions import (
    begun_from,
    chain,
    component_beliefs,
    component_posterior,
    leak,
    markov,
    mixture,
    noisy_channel,
    relabelled,
    with_beginning_token,
)
from nextlens.models.processes.phrases import days_of_week, mr_name, nested_parentheses, parentheses
from nextlens.models.processes.process import Process
from nextlens.models.processes.product import FactoredProcess
from nextlens.models.processes.quantum import bloch_walk, bloch_walk_from_angle, frdn, from_kraus, moon
from nextlens.models.processes.random_machines import random_epsilon_machine, random_process
from nextlens.models.processes.zoo import (
    PROCESSES,
    coin,
    even,
    golden_mean,
    leaky_rrxor,
    mess,
    mess3,
    process_by_name,
    rrxor,
    sns,
    zero_one_random,
)

__all__ = [
    "PROCESSES",
    "FactoredProcess",
    "Process",
    "begun_from",
    "bloch_walk",
    "bloch_walk_from_angle",
    "chain",
    "coin",
    "component_beliefs",
    "component_posterior",
    "days_of_week",
    "even",
    "frdn",
    "from_kraus",
    "golden_mean",
    "leak",
    "leaky_rrxor",
    "markov",
    "mess",
    "mess3",
    "mixture",
    "moon",
    "mr_name",
    "nested_parentheses",
    "noisy_channel",
    "parentheses",
    "process_by_name",
    "random_epsilon_machine",
    "random_process",
    "relabelled",
    "rrxor",
    "sns",
    "with_beginning_token",
    "zero_one_random",
]
