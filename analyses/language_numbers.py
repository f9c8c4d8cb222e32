"""A run on induction in language in numbers, each with its protocol and interval, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.induction_language import summarised
from nextlens.analyses.language_claims import FITTED, gim_name
from nextlens.analyses.language_recipe import LanguageRecipe, Texts, named
from nextlens.analyses.language_stretches import Stretches
from nextlens.analyses.results_folder import NUMBERS, versions

VERDICTS = {"above": "yes", "below": "NO ", "not told apart": " ? "}
PROTOCOL = (
    "next-token accuracy; strict: of equally probable tokens the lowest id; inclusive: every tie counts as right "
    "unless the law is uniform (the published rule); expected: one over the number of ties. bits: -log2 p, pointing "
    "models mixed with a uniform floor fitted on validated text. Intervals: 95 %, stretches of text drawn anew, "
    "paired over models; beside them documents drawn anew"
)


def sum_up(
    recipe: LanguageRecipe,
    texts: Texts,
    stretches: Stretches,
    data: xr.Dataset,
    found: Any,
    *,
    sources: Mapping[str, Any],
    tables: Mapping[str, xr.Dataset],
    lengths: Mapping[str, tuple[float, float]],
    shown: str,
    claims: list[dict[str, Any]],
    matchers: Mapping[str, Mapping[str, float]],
    read: tuple[int, int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Every number with its protocol, and the command that repeats it."""
    return {
        "protocol": PROTOCOL,
        "predictions": {
            "number": len(stretches.targets),
            "stretches": len(stretches),
            "documents": sorted(set(stretches.document)),
            "context, tokens": stretches.context,
            "read by the language model, tokens": list(read),
            "one every": recipe.every,
        },
        "accuracy": summarised(data, rng),
        "accuracy_by_document": _by_document(data),
        "floors": {name: found.floors[name] for name in found.floors},
        "thresholds": {name: _fitted(fit) for name, fit in found.fits.items()},
        "length": {name: {"mean": mean, "share of 8 and more": share} for name, (mean, share) in lengths.items()},
        "by_length": {name: _table(table) for name, table in tables.items()},
        "by_source": dict(sources),
        "claims": claims,
        "chosen_on_validated_text": found.notes,
        "retrieval": {name: dict(values) for name, values in matchers.items()},
        "texts": {
            "kind": {
                "in-domain": named(recipe.texts),
                "out-of-domain": named(recipe.others) if recipe.others else None,
            },
            "n_tokens": texts.vocabulary.n_tokens,
            "reference tokens": {name: int(corpus.size) for name, corpus in texts.references.items()},
            "validated": list(texts.validated.names),
        },
        "shown": shown,
        "cpu_seconds": {name: round(seconds, 1) for name, seconds in found.seconds.items()},
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "tokenizers"),
    }


def summary(recipe: LanguageRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was predicted, how well by whom, and which claims hold."""
    made, texts, accuracy = numbers["predictions"], numbers["texts"], numbers["accuracy"]
    width = max(map(len, accuracy))
    least, most = made["read by the language model, tokens"]
    kinds = ", ".join(f"{name} {size:,}" for name, size in texts["reference tokens"].items())
    lines = [
        f"gim: {made['number']:,} predictions in {made['stretches']} stretches of {len(made['documents'])} documents, "
        f"contexts of {made['context, tokens']:,} tokens, of which the language model has read the last "
        f"{least:,}{'' if least == most else f' to {most:,}, from before the context where that is more'}; "
        f"{texts['n_tokens']:,} tokens in the vocabulary; reference tokens: {kinds}",
        f"{'accuracy, %':{width}s}  strict               tie-inclusive        expected  tied  bits a token",
    ]
    for name, row in accuracy.items():
        bits = "   -" if row["bits"] is None else f"{row['bits']['mean']:6.2f}"
        lines.append(
            f"{name:{width}s}  {percent(row['strict'])}  {percent(row['inclusive'])}  "
            f"{100 * row['expected']['mean']:8.1f} {100 * row['tied']['mean']:5.1f}  {bits}"
        )
    chosen = numbers["chosen_on_validated_text"]["fuzzy"]["chosen"]
    lines.append(f"fuzzy is: {chosen}, the best matcher on validated text")
    if "mixtures" in numbers["chosen_on_validated_text"]:
        lines.append(f"mixtures with the language model, and kNN-LM: {numbers['chosen_on_validated_text']['mixtures']}")
    for name, fit in numbers["thresholds"].items():
        own = numbers["by_source"][name]
        shares = ", ".join(f"{source} {100 * one['share']:.0f} %" for source, one in own.items())
        lines.append(
            f"threshold, {name}: {fit['corpus']} (folds {', '.join(map(str, fit['by_fold']))}); answered by {shares}; "
            f"mean n {numbers['length'][name]['mean']:.1f}, n of 8 and more in "
            f"{100 * numbers['length'][name]['share of 8 and more']:.1f} %"
        )
    if accuracy["fuzzy"]["expected"]["mean"] < accuracy["exact"]["expected"]["mean"]:
        lines.append("note: fuzzy is below exact, so the matcher is weak, or the text repeats itself word by word")
    lines.append("claims, difference in points [95 % over stretches] under strict and tie-inclusive scoring:")
    lines += claim_lines(numbers["claims"])
    lines.append(f"look at    {folder / 'accuracy.png'}, then by_length.png, thresholds.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def claim_lines(claims: list[dict[str, Any]]) -> list[str]:
    """One line a comparison: both rules for ties side by side."""
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    for one in claims:
        where = "" if one["threshold"] in (None, FITTED) else f", threshold {one['threshold']}"
        rows.setdefault((one["claim"], one["what"] + where, ""), {})[one["rule"]] = one
    width = max(len(what) for _, what, _ in rows)
    return [
        f"  {number} {what:{width}s}  {points(by_rule['strict'])}  {points(by_rule['inclusive'])}"
        for (number, what, _), by_rule in sorted(rows.items(), key=lambda row: row[0][0])
    ]


def percent(one: Mapping[str, Any]) -> str:
    """A share with its interval.

    Examples
    --------
    >>> percent({"mean": 0.1234, "interval_95": [0.1, 0.15]})
    ' 12.3 [ 10.0,  15.0]'
    """
    low, high = one["interval_95"]
    return f"{100 * one['mean']:5.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"


def points(one: Mapping[str, Any]) -> str:
    """A difference with its interval over stretches, whether it holds, and over documents where that is otherwise."""
    (low, high), over_documents = one["interval_95"], one["verdict_documents"]
    said = f"{100 * one['difference']:+5.1f} [{100 * low:+5.1f}, {100 * high:+5.1f}] {VERDICTS[one['verdict']]}"
    return (
        said if over_documents in (None, one["verdict"]) else f"{said}(documents: {VERDICTS[over_documents].strip()})"
    )


def _by_document(data: xr.Dataset) -> dict[str, dict[str, float]]:
    """Strict accuracy, model by model and document by document."""
    names = np.unique(data.document.values)
    return {
        str(model): {str(name): float(row[data.document.values == name].mean()) for name in names}
        for model, row in zip(data.model.values, data.strict.values, strict=True)
    }


def _fitted(fit: Any) -> dict[str, Any]:
    curve = fit.curve
    return {
        "corpus": fit.threshold.corpus,
        "context": fit.threshold.context,
        "held_out": fit.held_out,
        "by_fold": [one.corpus for one in fit.by_fold],
        "criterion": curve.attrs["criterion"],
        "curve": {
            "threshold": curve.threshold.values.tolist(),
            **{n: curve[n].values.tolist() for n in curve.data_vars},
        },
    }


def _table(table: xr.Dataset) -> dict[str, Any]:
    return {
        "length": [str(one) for one in table.length.values],
        "predictions": table.predictions.values.tolist(),
        **{
            str(model): {n: table[n].sel(model=model).values.tolist() for n in ("mean", "low", "high")}
            for model in table.model.values
        },
    }


def main_models(numbers: Mapping[str, Any]) -> list[str]:
    """The models of the main figure, best known first."""
    shown = numbers["shown"]
    wanted = ["teacher and GIM", "kNN-LM", "teacher", gim_name(shown), gim_name("no corpus"), "fuzzy", "exact"]
    wanted += [name for name in numbers["accuracy"] if name.startswith(("infini-gram", "Kneser"))]
    return [name for name in wanted if name in numbers["accuracy"]]
