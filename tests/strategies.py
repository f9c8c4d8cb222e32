"""Random batches, for laws that must hold for all of them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from nextlens.models.batch import Batch


@st.composite
def batches(draw, n_tokens: int, n: int = 2, time: int = 6) -> Batch:
    """Batches of uniform random tokens, long enough to hold repeats."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Batch.from_tokens(rng.integers(n_tokens, size=(n, time + 1)))
