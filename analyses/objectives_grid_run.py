"""Rides through a town, learnt by several objectives: five measures of each in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from nextlens.analyses.next_latent import kl
from nextlens.analyses.objectives_grid import MEASURES, grid_measures
from nextlens.analyses.objectives_table import TableRecipe
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.objectives.registers import WithoutRegister
from nextlens.models.recording import device_of
from nextlens.models.tasks.prompted import batch_of
from nextlens.models.tasks.street_grid import StreetGrid


@dataclass(frozen=True)
class GridRecipe(TableRecipe):
    """What :class:`~nextlens.analyses.objectives_table.TableRecipe` says, of rides through a town.

    Parameters
    ----------
    height, width, one_way, wander, longest
        Of :class:`~nextlens.models.tasks.street_grid.StreetGrid`.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    height: int = 5
    width: int = 5
    one_way: float | int = 0.3
    wander: float | int = 0.5
    longest: int = 20

    verb: ClassVar[str] = "street-grid"
    protocols: ClassVar[Mapping[str, str]] = MEASURES

    @property
    def task(self) -> StreetGrid:
        return StreetGrid(self.height, self.width, self.one_way, self.wander, self.longest)

    @property
    def about(self) -> str:
        return f"street grid: {self.height} by {self.width} crossings, rides between pairs no training saw"

    def measured(self, model: Hooked) -> dict[str, float]:
        """The five measures, and how far the model's law is from the exact one."""
        rng = np.random.default_rng(3)
        return {
            **grid_measures(model, self.task, rng),
            "KL to the exact law, nats": _kl_to_exact(model, self.task, rng),
        }


@torch.no_grad()
def _kl_to_exact(model: Kernel, task: StreetGrid, rng: np.random.Generator) -> float:
    """Mean over the places that are asked of rides between new pairs."""
    drawn = task.draw(300, rng, pairs="new")
    batch = batch_of(drawn)
    asked = batch.weights > 0
    goal = np.broadcast_to(drawn.goal.values[:, None], asked.shape)
    with np.errstate(divide="ignore"):
        exact = torch.from_numpy(np.log(task.law(drawn.crossing.values[:, :-1], goal)))
    said = WithoutRegister(model).log_probs(batch.to(device_of(model, batch))).cpu().double()
    return float(kl(exact, said)[asked].mean())
