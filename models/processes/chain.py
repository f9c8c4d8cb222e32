"""Markov chains beneath a process: where they stay for good, and how they share their time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


def recurrent_classes(chain: Float[np.ndarray, "state state"]) -> Int[np.ndarray, " state"]:
    """Which set of states, never left once entered, each state is in; -1 for the transient ones.

    These are the strongly connected sets without an arrow out, numbered from 0. Their count is the
    multiplicity of the eigenvalue 1, found here without arithmetic, so that a leak of any size counts.
    """
    _, member = connected_components(csr_array(chain > 0), connection="strong")
    source, target = np.nonzero(chain > 0)
    left = np.unique(member[source[member[source] != member[target]]])
    kept, number = np.unique(np.where(np.isin(member, left), -1, member), return_inverse=True)
    return number - int(kept[0] == -1)


def fixed_vectors(
    chain: Float[np.ndarray, "state state"], count: int
) -> tuple[Float[np.ndarray, "count state"], Float[np.ndarray, "state count"]]:
    """Bases of the left (``u @ chain == u``) and right (``chain @ v == v``) fixed vectors.

    Taken from the ``count`` smallest singular values of ``chain - 1``. Neither the eigenvalue of
    largest modulus (a chain of period 3 has three) nor whatever is close to 1 (a slow chain has
    several) would do.
    """
    left, _, right = np.linalg.svd(chain - np.eye(len(chain)))
    return left[:, -count:].T, right[-count:].T


def long_run_law(
    chain: Float[np.ndarray, "state state"], initial: Float[np.ndarray, " state"]
) -> Float[np.ndarray, " state"]:
    """The share of time that a stochastic chain, started from ``initial``, spends in each state.

    ``lim (initial @ (1 + chain + ... + chain^(n-1))) / n``: it exists for periodic chains too. The
    transient states have exactly 0.
    """
    recurrent = recurrent_classes(chain)
    left, right = fixed_vectors(chain, int(recurrent.max()) + 1)
    law = initial @ right @ np.linalg.solve(left @ right, left)
    law = np.where(recurrent >= 0, law, 0).clip(0)
    return law / law.sum()
