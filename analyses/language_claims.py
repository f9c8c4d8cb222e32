"""The published claims about GIM, one by one: what was said, what is found here, and what follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int

from nextlens.analyses.induction_language import compared, rises_with_length

#: Rules for ties: ours, and that of the published tables.
RULES = ("strict", "inclusive")
#: Matches no longer than this are short.
SHORT = 2
FITTED, PUBLISHED = "fitted", "8"


def gim_name(reference: str, threshold: str = FITTED) -> str:
    """What a GIM is called: ``GIM, both`` with the threshold chosen here, ``GIM 8, both`` with the published one."""
    return f"GIM{'' if threshold == FITTED else f' {threshold}'}, {reference}"


def claims(
    data: xr.Dataset,
    lengths: dict[str, Int[np.ndarray, " prediction"]],
    references: list[str],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Every comparison that a claim asks for, under both rules for ties.

    Parameters
    ----------
    data : xr.Dataset
        Of :func:`~nextlens.analyses.induction_language.scored`, with models ``exact``, ``fuzzy``, ``infini-gram, R``
        and the GIMs of every reference R, at the threshold fitted and at 8.
    lengths : dict
        The effective n of each reference's GIM; under ``context`` that of exact matches.
    references : list of str

    Returns
    -------
    list of dict
        ``claim`` (1 to 4), ``what``, ``published``, ``rule``, and the comparison. A claim holds where every
        ``verdict`` of it is ``"above"``.
    """
    found = []
    for rule in RULES:
        found += _one(data, references, rule, rng)
        found += _two(data, lengths["context"], rule, rng)
        for threshold in (FITTED, PUBLISHED):
            found += _three(data, references, threshold, rule, rng)
            found += _four(data, lengths, references, threshold, rule, rng)
    return found


def _one(data: xr.Dataset, references: list[str], rule: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    published = "5.5 to 20 points on BabyLM and Pile with 9 billion tokens of another domain; below on FineWeb"
    return [
        {
            "claim": 1,
            "what": f"exact above infini-gram, {reference}",
            "published": published if reference == "out-of-domain" else "no such claim",
            "rule": rule,
            "threshold": None,
            **compared(data, "exact", f"infini-gram, {reference}", rule, rng),
        }
        for reference in references
    ]


def _two(
    data: xr.Dataset, length: Int[np.ndarray, " prediction"], rule: str, rng: np.random.Generator
) -> list[dict[str, Any]]:
    rows = {"": None, f", n up to {SHORT}": length <= SHORT, f", n above {SHORT}": length > SHORT}
    found = []
    for where, some in rows.items():
        if some is None or some.any():
            published = "1.5 to 8.7 points" if not where else "most at low n"
            comparison = compared(data, "fuzzy", "exact", rule, rng, rows=some)
            what = f"fuzzy above exact{where}"
            found.append(
                {"claim": 2, "what": what, "published": published, "rule": rule, "threshold": None, **comparison}
            )
    return found


def _three(
    data: xr.Dataset, references: list[str], threshold: str, rule: str, rng: np.random.Generator
) -> list[dict[str, Any]]:
    found = []
    for reference in references:
        for other in (f"infini-gram, {reference}", "exact", "fuzzy"):
            found.append(
                {
                    "claim": 3,
                    "what": f"GIM above {other}" + ("" if reference in other else f" ({reference})"),
                    "published": "up to 25 points above infini-gram; at least its parts in 8 of 9 cells",
                    "rule": rule,
                    "threshold": threshold,
                    **compared(data, gim_name(reference, threshold), other, rule, rng),
                }
            )
    return found


def _four(
    data: xr.Dataset,
    lengths: dict[str, Int[np.ndarray, " prediction"]],
    references: list[str],
    threshold: str,
    rule: str,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    found = []
    for reference in references:
        right = data[rule].sel(model=gim_name(reference, threshold)).values
        slope = rises_with_length(right, lengths[reference], data.stretch.values, rng, documents=data.document.values)
        found.append(
            {
                "claim": 4,
                "what": f"GIM, {reference}: right more often at longer n",
                "published": "accuracy rises with effective n",
                "rule": rule,
                "threshold": threshold,
                **slope,
            }
        )
    return found
