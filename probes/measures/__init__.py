"""Measures of next-token laws, as arrays: how accurate, how well calibrated, what they cost, how robust they are."""

from nextlens.probes.measures.calibration import (
    Calibrated,
    Whiteness,
    autocorrelation,
    top_label,
    whiteness,
)
from nextlens.probes.measures.costs import (
    Cost,
    Growth,
    attention_flops,
    cache_bytes,
    forward_flops,
    growth,
)
from nextlens.probes.measures.divergences import (
    Bound,
    Support,
    bits_per_byte,
    divergence,
    entropy,
    sequence_bounds,
    support,
    support_violation,
    total_variation,
)
from nextlens.probes.measures.memory import Influence, Memory, influence, memory

__all__ = [
    "Bound",
    "Calibrated",
    "Cost",
    "Growth",
    "Influence",
    "Memory",
    "Support",
    "Whiteness",
    "attention_flops",
    "autocorrelation",
    "bits_per_byte",
    "cache_bytes",
    "divergence",
    "entropy",
    "forward_flops",
    "growth",
    "influence",
    "memory",
    "sequence_bounds",
    "support",
    "support_violation",
    "top_label",
    "total_variation",
    "whiteness",
]
