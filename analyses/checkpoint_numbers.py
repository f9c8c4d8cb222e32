"""The numbers of a report: each with its unit, its interval over blocks of the text, and its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Int

from nextlens.analyses.checkpoint_pass import Pass
from nextlens.analyses.checkpoint_reading import Reading
from nextlens.probes.blocks import block_sums, jackknife_interval, ratio_interval
from nextlens.probes.geometry import dimensions_at, effective_rank, variance_spectrum
from nextlens.probes.ngrams import counted_surprisal
from nextlens.probes.ridge import moments

#: Of the bootstrap, wherever a report draws blocks.
SEED = 0
#: Positions up to this many are shown one by one; beyond, in ranges that double.
SINGLE_POSITIONS = 32
FIRST_RANGE = 8
#: Groups of blocks left out in turn for the interval of a rank.
RANK_GROUPS = 8
SPECTRUM_KEPT = 64

CONVENTION = (
    "Surprisal of a token is -log2 of the probability the model gave it. Bits per token: its mean over all tokens "
    "but the first, before which nothing was read. Bits per byte: the same bits over the UTF-8 bytes that these "
    "tokens spell. Models with other vocabularies are compared by bits per byte, never by bits per token."
)


def loss_numbers(
    one: Pass, reading: Reading, n_tokens: int, n_bytes: Int[np.ndarray, " row"] | None, optimum: np.ndarray | None
) -> dict[str, Any]:
    """Bits per token and per byte, beside what counting the rest of the text gives."""
    rows = np.ones(len(reading))
    nulls = {
        "uniform law": {"value": float(np.log2(n_tokens)), "interval_95": None},
        **{
            f"{name}, counted in the other blocks": mean_of(bits, rows, reading)
            for name, bits in counted_surprisal(reading.said, reading.read, reading.block, n_tokens).items()
        },
    }
    found = {
        "unit": "bit",
        "bits_per_token": mean_of(one.surprisal, rows, reading),
        "bits_per_byte": None if n_bytes is None else mean_of(one.surprisal, n_bytes.astype(float), reading),
        "expected_by_the_model": mean_of(one.entropy, rows, reading),
        "nulls_bits_per_token": nulls,
        "optimum_bits_per_token": None,
        "excess_over_optimum": None,
        "convention": CONVENTION,
        "interval": f"95 %, bootstrap over {reading.n_blocks} blocks",
    }
    if optimum is not None:
        found["optimum_bits_per_token"] = mean_of(optimum, rows, reading)
        found["excess_over_optimum"] = mean_of(one.surprisal - optimum, rows, reading)
    return found


def mean_of(values: Float[np.ndarray, " row"], per: Float[np.ndarray, " row"], reading: Reading) -> dict[str, Any]:
    """``Σ values / Σ per`` over rows, and its interval over blocks."""
    top, bottom = block_sums(values, reading.block), block_sums(per, reading.block)
    low, high = ratio_interval(top, bottom, np.random.default_rng(SEED))
    return {"value": float(top.sum() / bottom.sum()), "interval_95": [float(low), float(high)]}


def curve_of(
    values: Float[np.ndarray, "row place"], per: Float[np.ndarray, "row place"], block: Int[np.ndarray, " row"]
) -> dict[str, list[float]]:
    """``Σ values / Σ per`` over rows at each place, and its interval over blocks."""
    top, bottom = block_sums(values, block), block_sums(per, block)
    low, high = ratio_interval(top, bottom, np.random.default_rng(SEED))
    return {"value": (top.sum(0) / bottom.sum(0)).tolist(), "low": low.tolist(), "high": high.tolist()}


def surprisal_numbers(one: Pass, reading: Reading, optimum: np.ndarray | None) -> dict[str, Any]:
    """Surprisal by how many tokens had been read, and along the text by block."""
    return {
        "unit": "bit",
        "by_tokens_read": by_tokens_read(one, reading, optimum),
        "by_block": {
            "first_token": [int(np.flatnonzero(reading.block == b)[0]) + 1 for b in range(reading.n_blocks)],
            "bits": [float(one.surprisal[reading.block == b].mean()) for b in range(reading.n_blocks)],
            "note": "a block is a run of neighbouring tokens, or some whole sequences",
        },
    }


def by_tokens_read(one: Pass, reading: Reading, optimum: np.ndarray | None) -> dict[str, Any]:
    """Mean surprisal after 1, 2, ... tokens of a window, each window counted, overlaps too."""
    time, n = reading.time, len(reading.starts)
    read = np.arange(1, time + 1)
    group = read - 1 if time <= SINGLE_POSITIONS else np.ceil(np.log2(np.maximum(read / FIRST_RANGE, 1))).astype(int)
    length = reading.tokens.shape[1] - 1
    place = (reading.starts[:, None] + np.arange(time)).ravel()
    rows = np.concatenate([s * length + place for s in range(len(reading.tokens))])
    member = np.tile(group, len(one.by_time))
    inside = np.eye(group.max() + 1)[member]
    bits = one.by_time.astype(np.float64).ravel()
    found: dict[str, Any] = {
        "tokens_read": [float(np.exp(np.log(read[group == g]).mean())) for g in range(group.max() + 1)],
        "from": [int(read[group == g].min()) for g in range(group.max() + 1)],
        "to": [int(read[group == g].max()) for g in range(group.max() + 1)],
        "predictions": inside.sum(0).astype(int).tolist(),
        "windows": len(reading.tokens) * n,
    }
    try:
        found |= curve_of(bits[:, None] * inside, inside, reading.block[rows])
    except ValueError:  # too few blocks hold the opening of a window
        found |= {"value": ((bits @ inside) / inside.sum(0)).tolist(), "low": None, "high": None}
    if optimum is not None and n == 1:
        found["optimum"] = ((optimum @ inside) / inside.sum(0)).tolist()
    return found


def lens_numbers(one: Pass, reading: Reading, sites: Sequence[str]) -> dict[str, Any]:
    """What the model would say from each site: how far from its final law, and how well."""
    if one.no_lens:
        return {"left_out": one.no_lens}
    block = reading.block[one.lensed]
    ones = np.ones((len(block), len(sites)))
    final = one.surprisal[one.lensed]
    null = one.unigram_divergence
    return {
        "unit": "bit",
        "sites": list(sites),
        "kl_to_final": curve_of(one.divergence.T, ones, np.unique(block, return_inverse=True)[1]),
        "cross_entropy": curve_of(one.cross_entropy.T, ones, np.unique(block, return_inverse=True)[1]),
        "null_kl_of_unigram": float(null.mean()),
        "final_cross_entropy": float(final.mean()),
        "rows": len(block),
        "note": (
            "The residual stream of each site is put in the place of the last one, and the model goes on: its own "
            "final norm is applied, then its unembedding. KL(final law ‖ law at the site). Nothing is fitted."
        ),
    }


def stream_numbers(
    stream: Mapping[str, Float32[np.ndarray, "kept width"]],
    block: Int[np.ndarray, " kept"],
    twin: Mapping[str, Float32[np.ndarray, "kept width"]] | None,
) -> dict[str, Any]:
    """How many directions the residual stream fills, site by site, beside streams without correlations."""
    if not stream:
        return {"left_out": "the model names no residual stream: no site ends with hook_resid_post"}
    sites, rng = list(stream), np.random.default_rng(SEED)
    n, width = stream[sites[-1]].shape
    group = np.unique(block, return_inverse=True)[1] * RANK_GROUPS // len(np.unique(block))
    ranks = [rank_of(X, group) for X in stream.values()]
    shuffled = [effective_rank(variance_spectrum(rng.permuted(X, axis=0))) for X in stream.values()]
    spectra = [variance_spectrum(X) for X in stream.values()]
    return {
        "unit": "squared units of the residual stream; ranks are numbers of directions",
        "sites": sites,
        "width": width,
        "rows": n,
        "variance": [float(one.sum()) for one in spectra],
        "effective_rank": {key: [rank[i] for rank in ranks] for i, key in enumerate(("value", "low", "high"))},
        "dimensions_95": [dimensions_at(one, 0.95) for one in spectra],
        "null_columns_shuffled": shuffled,
        "null_untrained_twin": None
        if twin is None
        else [effective_rank(variance_spectrum(twin[site])) for site in sites],
        "share_of_variance": [(one[:SPECTRUM_KEPT] / max(one.sum(), 1e-300)).tolist() for one in spectra],
        "interval": f"95 %, jackknife over {int(group.max()) + 1} groups of blocks",
        "note": "First tokens of the text are left out. No rank can exceed the width, nor the rows less one.",
    }


def rank_of(X: Float32[np.ndarray, "kept width"], group: Int[np.ndarray, " kept"]) -> tuple[float, float, float]:
    """The effective rank, and its jackknife interval: an eigenvalue problem for each group left out."""
    nothing = np.zeros((len(X), 0), dtype=np.float32)
    parts = [moments(X[group == g], nothing[group == g]) for g in range(int(group.max()) + 1)]

    def without(rows: Int[np.ndarray, " row"]) -> float:
        labels = np.unique(group[rows])
        total = parts[labels[0]]
        for label in labels[1:]:
            total = total + parts[label]
        return effective_rank(np.linalg.eigvalsh(total.xx / total.weight)[::-1].clip(min=0.0))

    whole = without(np.arange(len(X)))
    return (whole, *jackknife_interval(without, group, whole))


def probe_numbers(scores: xr.Dataset | str, stream_order: Sequence[str]) -> dict[str, Any]:
    """The table of the probes ahead as plain lists."""
    if isinstance(scores, str):
        return {"left_out": scores}
    table = {
        str(name): {
            key: [None if np.isnan(value) else float(value) for value in scores[key].sel(predictor=name).values]
            for key in scores.data_vars
        }
        for name in scores.predictor.values
    }
    return {
        "unit": "share of the unigram law's Brier score removed (0: unigram, 1: certainty); accuracy: share of rows",
        "ahead": scores.ahead.values.tolist(),
        "sites": list(stream_order),
        "predictors": table,
        **scores.attrs,
        "interval": f"95 %, bootstrap over {scores.attrs['blocks']} blocks",
    }
