"""What stands beneath each figure of a report, and what is read out in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Numbers = Mapping[str, Any]


def caption_of(name: str, numbers: Numbers) -> tuple[str, str]:
    """The caption of a figure, and the text that stands for it where it cannot be seen."""
    return CAPTIONS[name](numbers)


def _surprisal(numbers: Numbers) -> tuple[str, str]:
    found, loss = numbers["surprisal"]["by_tokens_read"], numbers["loss"]
    nulls = loss["nulls_bits_per_token"]
    band = "" if found["low"] is None else " Band: 95 % over blocks of the text."
    least = " And the least possible, by an observer who knows the process." if "optimum" in found else ""
    return (
        f"Surprisal by how many tokens of the window had been read; {found['windows']} windows, overlaps counted "
        f"again.{band} Grey: what counting single tokens, or pairs, in the other blocks gives.{least}",
        f"Surprisal by tokens read, from {found['value'][0]:.2f} bits per token after {found['from'][0]} to "
        f"{found['to'][0]} tokens to {found['value'][-1]:.2f} after {found['from'][-1]} to {found['to'][-1]}; unigram "
        f"null {nulls['unigram, counted in the other blocks']['value']:.2f} bits.",
    )


def _along(numbers: Numbers) -> tuple[str, str]:
    found = numbers["surprisal"]["by_block"]
    return (
        f"Mean surprisal of each of the {len(found['bits'])} blocks that folds and intervals keep whole.",
        f"Mean surprisal by block, between {min(found['bits']):.2f} and {max(found['bits']):.2f} bits per token.",
    )


def _divergence(numbers: Numbers) -> tuple[str, str]:
    lens = numbers["lens"]
    first, last = lens["kl_to_final"]["value"][0], lens["kl_to_final"]["value"][-2:][0]
    return (
        f"Logit lens: how far the law read off each layer is from the model's final law, with the final norm applied; "
        f"{lens['rows']} predictions. After the last block it is 0. Band: 95 % over blocks. Grey: a law that counts "
        "single tokens.",
        f"Divergence by layer, from {first:.2f} bits before the first block to {last:.2f} before the last and 0 after.",
    )


def _lens_loss(numbers: Numbers) -> tuple[str, str]:
    lens = numbers["lens"]
    values = lens["cross_entropy"]["value"]
    return (
        "Logit lens: how well the law read off each layer predicts the text, with the final norm applied. Band: 95 % "
        "over blocks. A layer above the uniform law is confidently wrong: its stream is not written in the "
        "directions of the unembedding.",
        f"Cross-entropy by layer, from {values[0]:.2f} to {values[-1]:.2f} bits per token.",
    )


def _spectrum(numbers: Numbers) -> tuple[str, str]:
    found = numbers["residual"]
    first = [row[0] for row in found["share_of_variance"]]
    return (
        f"Share of the variance of the residual stream along each principal component, at some sites; {found['rows']} "
        "positions.",
        f"Falling curves; the first component holds between {min(first):.0%} and {max(first):.0%} of the variance.",
    )


def _rank(numbers: Numbers) -> tuple[str, str]:
    found = numbers["residual"]
    rank = found["effective_rank"]["value"]
    twin = " and of the untrained twin" if found["null_untrained_twin"] else ""
    return (
        "Effective rank: the exponential of the entropy of the spectrum. Grey: the same columns, each shuffled by "
        f"itself, so that no two are correlated{twin}. Band: 95 %, blocks left out in turn.",
        f"Effective rank by layer, between {min(rank):.1f} and {max(rank):.1f} directions of {found['width']}.",
    )


def _heads(score: str) -> Callable[[Numbers], tuple[str, str]]:
    def caption(numbers: Numbers) -> tuple[str, str]:
        found = numbers["heads"]
        best, chance = found["best"][score][0], found["chance"][score]
        return (
            f"The {score} score of every head on {found['tokens']}. Framed: {found['thresholds'][score]:.2g} or "
            f"more. Colours begin at chance, {chance:.3f}.",
            f"Map of layers and heads; highest: layer {best['layer']}, head {best['head']}, {best['value']:.2f}.",
        )

    return caption


def _ahead(numbers: Numbers) -> tuple[str, str]:
    found = numbers["ahead"]
    best = max(found["predictors"][site]["skill"][0] for site in found["sites"])
    return (
        "Linear probes of the residual stream for the tokens that follow, held out by block: share of the unigram "
        "law's Brier score removed. Band: 95 % over blocks. Grey: a probe of the token just read, for the next.",
        f"Probe scores by layer; the best for the next token is {best:.3f}.",
    )


def _belief_sites(numbers: Numbers) -> tuple[str, str]:
    found = numbers["beliefs"]
    last, twin = found["r2"]["probe"][-1], found["r2"]["untrained twin"][-1]
    return (
        f"R² of a linear probe for the belief of an ideal observer, held out by prefix; {found['prefixes']:,} prefixes "
        f"of up to {found['longest_prefix']} tokens. Grey: the untrained twin, shuffled beliefs, and what the last "
        "tokens alone give.",
        f"R² by site, {last:.3f} at the last; untrained twin {twin:.3f}.",
    )


def _beliefs(numbers: Numbers) -> tuple[str, str]:
    found = numbers["beliefs"]
    return (
        f"Beliefs after each prefix: exact, as read off {found['sites'][-1]}, and off the untrained twin. A point has "
        "the colour of its exact belief.",
        "Three clouds of beliefs side by side: exact, read by a probe, read from the untrained twin.",
    )


CAPTIONS: dict[str, Callable[[Numbers], tuple[str, str]]] = {
    "surprisal": _surprisal,
    "along_the_text": _along,
    "lens_divergence": _divergence,
    "lens_loss": _lens_loss,
    "spectrum": _spectrum,
    "effective_rank": _rank,
    "prefix_matching": _heads("prefix matching"),
    "previous_token": _heads("previous token"),
    "tokens_ahead": _ahead,
    "beliefs_by_site": _belief_sites,
    "beliefs": _beliefs,
}
