"""The examples of the docstrings, run by import name so that no module is imported twice."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import nextlens.analyses
import nextlens.models
import nextlens.probes

MODULES = sorted(
    found.name
    for room in (nextlens.models, nextlens.probes, nextlens.analyses)
    for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
)


def test_every_room_is_walked():
    assert {name.split(".")[1] for name in MODULES} == {"models", "probes", "analyses"}
    assert "nextlens.models.processes.process" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_its_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
