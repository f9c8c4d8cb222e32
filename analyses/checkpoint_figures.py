"""A report in figures, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nextlens.analyses.belief_geometry import BeliefGeometry
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.heads import HeadsDisplay
from nextlens.analyses.displays.layers import LayersDisplay, short_site
from nextlens.analyses.displays.simplex import SimplexDisplay

#: Above this ratio of the largest to the least an axis is logarithmic; below so many bits nothing is told apart.
WIDE, LEAST_BITS = 10, 1e-3


def displays_of(numbers: Mapping[str, Any], beliefs: BeliefGeometry | None = None) -> dict[str, Any]:
    """The figures of a report by name, in the order of the page; what was left out has none."""
    made = {
        "surprisal": surprisal_display(numbers),
        "along_the_text": along_display(numbers),
    }
    if "left_out" not in numbers["lens"]:
        made |= {"lens_divergence": divergence_display(numbers)} if len(numbers["lens"]["sites"]) > 1 else {}
        made["lens_loss"] = lens_loss_display(numbers)
    if "left_out" not in numbers["residual"]:
        made |= {"spectrum": spectrum_display(numbers), "effective_rank": rank_display(numbers)}
    if "left_out" not in numbers["heads"]:
        made |= {"prefix_matching": heads_display(numbers, "prefix matching")}
        made |= {"previous_token": heads_display(numbers, "previous token")}
    if "left_out" not in numbers["ahead"]:
        made["tokens_ahead"] = ahead_display(numbers)
    if beliefs is not None:
        made |= {"beliefs_by_site": belief_display(numbers), "beliefs": simplex_display(numbers, beliefs)}
    return made


def short(sites: list[str]) -> list[str]:
    """Sites as ticks: ``in`` before the first block, then the number of the block."""
    return ["in" if not site.endswith("hook_resid_post") else short_site(site).split()[0] for site in sites]


def wide(values: Sequence[float]) -> str:
    """The scale of an axis: logarithmic where the largest would hide the others."""
    return "log" if max(values) > WIDE * min(values) > 0 else "linear"


def surprisal_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """Surprisal by how much had been read."""
    found, loss = numbers["surprisal"]["by_tokens_read"], numbers["loss"]
    references: dict[str, Any] = {
        "unigram": loss["nulls_bits_per_token"]["unigram, counted in the other blocks"]["value"],
        "bigram": loss["nulls_bits_per_token"]["previous token, counted in the other blocks"]["value"],
    }
    if "optimum" in found:
        references["least possible"] = found["optimum"]
    return CurvesDisplay(
        along=found["tokens_read"],
        values={"model": found["value"]},
        intervals={} if found["low"] is None else {"model": [found["low"], found["high"]]},
        references=references,
        xlabel="tokens read in the window",
        ylabel="surprisal, bits per token",
        xscale="log" if found["to"][-1] > 32 else "linear",
    )


def along_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """Surprisal along the text, block by block."""
    found, loss = numbers["surprisal"]["by_block"], numbers["loss"]
    return CurvesDisplay(
        along=found["first_token"],
        values={"model": found["bits"]},
        references={"mean": loss["bits_per_token"]["value"]},
        xlabel="first token of the block",
        ylabel="surprisal, bits per token",
    )


def divergence_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """How far what each layer would say is from what the model says in the end."""
    lens = numbers["lens"]
    found = {end: [max(one, LEAST_BITS) for one in values[:-1]] for end, values in lens["kl_to_final"].items()}
    return CurvesDisplay(
        along=short(lens["sites"])[:-1],
        values={"lens": found["value"]},
        intervals={"lens": [found["low"], found["high"]]},
        references={"unigram": lens["null_kl_of_unigram"]},
        yscale=wide(found["value"]),
        xlabel="residual stream after block",
        ylabel="KL(final ‖ lens), bits",
    )


def lens_loss_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """How well each layer would predict."""
    lens, nulls = numbers["lens"], numbers["loss"]["nulls_bits_per_token"]
    found = lens["cross_entropy"]
    return CurvesDisplay(
        along=short(lens["sites"]),
        values={"lens": found["value"]},
        intervals={"lens": [found["low"], found["high"]]},
        references={
            "uniform": nulls["uniform law"]["value"],
            "unigram": nulls["unigram, counted in the other blocks"]["value"],
            "model": lens["final_cross_entropy"],
        },
        yscale=wide(found["value"]),
        xlabel="residual stream after block",
        ylabel="cross-entropy, bits per token",
    )


def spectrum_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """The variance along principal components, at a few sites."""
    found = numbers["residual"]
    sites, shares = found["sites"], found["share_of_variance"]
    chosen = np.unique(np.linspace(0, len(sites) - 1, 4).round().astype(int)).tolist()
    names = short(sites)
    return CurvesDisplay(
        along=np.arange(1, len(shares[0]) + 1, dtype=float),
        values={f"block {names[i]}" if i else "in": np.maximum(shares[i], 1e-9) for i in chosen},
        xlabel="principal component",
        ylabel="share of variance",
        xscale="log",
        yscale="log",
    )


def rank_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """How many directions the residual stream fills."""
    found = numbers["residual"]
    rank = found["effective_rank"]
    twin = found["null_untrained_twin"]
    references = {"shuffled": found["null_columns_shuffled"]} | ({"untrained": twin} if twin else {})
    return CurvesDisplay(
        along=short(found["sites"]),
        values={"model": rank["value"]},
        intervals={"model": [np.maximum(rank["low"], 1e-3), np.maximum(rank["high"], 1e-3)]},
        references=references,
        xlabel="residual stream after block",
        ylabel="effective rank, directions",
        yscale="log",
    )


def ahead_display(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """Tokens ahead, by site."""
    found = numbers["ahead"]
    table, sites = found["predictors"], found["sites"]
    values, intervals, references = {}, {}, {}
    for j, k in enumerate(found["ahead"]):
        name = "next token" if k == 1 else f"{k} ahead"
        values[name] = [table[site]["skill"][j] for site in sites]
        intervals[name] = [[table[site][f"skill_{end}"][j] for site in sites] for end in ("low", "high")]
    references["last token, next"] = table["last token"]["skill"][0]
    references["unigram"] = 0.0
    return CurvesDisplay(
        along=short(sites),
        values=values,
        intervals=intervals,
        references=references,
        xlabel="residual stream after block",
        ylabel="share of Brier score removed",
    )


def heads_display(numbers: Mapping[str, Any], score: str) -> HeadsDisplay:
    """One score of every head; those at the threshold or above it are framed."""
    found = numbers["heads"]
    values, layers = np.asarray(found["scores"][score]), found["layers"]
    return HeadsDisplay(
        scores={score: values},
        chance={score: found["chance"][score]},
        marked=[(layers[i], int(j)) for i, j in np.argwhere(values >= found["thresholds"][score])],
        layers=layers,
    )


def belief_display(numbers: Mapping[str, Any]) -> LayersDisplay:
    """R² of the belief by site, beside the untrained twin and what tokens alone give."""
    found = numbers["beliefs"]
    tokens = {name: value for name, value in found["nulls"].items() if name.startswith("last ")}
    longest = list(tokens.items())[-1:]
    return LayersDisplay(
        sites=found["sites"],
        scores={"model": found["r2"]["probe"]},
        nulls={"untrained": found["r2"]["untrained twin"], "shuffle": found["r2"]["shuffle"], **dict(longest)},
        quantity="R² of the belief",
    )


def simplex_display(numbers: Mapping[str, Any], beliefs: BeliefGeometry) -> SimplexDisplay:
    """Exact beliefs, what is read off the model, and off its untrained twin."""
    return SimplexDisplay(
        truth=beliefs.truth, guess=beliefs.guess, untrained=beliefs.untrained, weights=beliefs.weights
    )
