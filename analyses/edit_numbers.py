"""Edits of several transformers in numbers, in a figure, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from nextlens.analyses.belief_edit import EDITS
from nextlens.analyses.belief_numbers import named
from nextlens.analyses.displays import style
from nextlens.analyses.displays.edits import EditsDisplay
from nextlens.analyses.edit_recipe import EditRecipe
from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import NUMBERS
from nextlens.analyses.subspace_ablation import SUBSPACES

#: Drawn in colour and in grey; the rest is in the numbers.
CLAIMED, CONTROLS = (
    ("covariance", "decoder", "minimum norm", "true context"),
    ("none", "random direction", "wrong belief"),
)
#: The wrong belief must be so many times further off than the right one.
BAR = 5.0


class SeedEdits(NamedTuple):
    """What one transformer gave: scores of edits of it, of its untrained twin, and of what else was asked.

    ``degenerate`` is None where no two contexts have equal next-token laws and different beliefs.
    """

    model: xr.Dataset
    twin: xr.Dataset
    degenerate: xr.Dataset | None
    sweep: xr.Dataset
    ablation: xr.Dataset


def sum_up(recipe: EditRecipe, results: Mapping[int, SeedEdits]) -> dict[str, Any]:
    """Every number with its protocol, controls, seeds, interval and the command that repeats it."""
    models, twins, degenerates, sweeps, ablations = (list(each) for each in zip(*results.values(), strict=True))
    contrasts = [one.kl.sel(edit="wrong belief", step=1) / one.kl.sel(edit="covariance", step=1) for one in models]
    has_pairs = all(one is not None for one in degenerates)
    return {
        "site": str(models[0].site.values[-1]),
        "kl": _nested(models, "kl", "site", "edit", "step"),
        "recovered": _nested(models, "recovered", "site", "edit", "step"),
        "probe_r2": _nested(models, "r2", "site"),
        "wrong_over_covariance": _nested([one.to_dataset(name="ratio") for one in contrasts], "ratio", "site"),
        "untrained_twin": {
            "kl": _nested(twins, "kl", "site", "edit", "step"),
            "recovered": _nested(twins, "recovered", "site", "edit", "step"),
            "probe_r2": _nested(twins, "r2", "site"),
        },
        "equal_next_law": {"kl": _nested(degenerates, "kl", "site", "edit", "step")} if has_pairs else None,
        "penalty_sweep": {"kl": _nested(sweeps, "kl", "alpha", "edit"), "probe_r2": _nested(sweeps, "r2", "alpha")},
        "ablation": {
            "loss": interval([one.attrs["loss"] for one in ablations]),
            "increase": _nested(ablations, "increase", "site", "subspace"),
            "variance": _nested(ablations, "variance", "site", "subspace"),
            "rank": _nested(ablations, "rank", "site"),
            "subspaces": SUBSPACES,
            "in_sample": True,
            "protocol": "the subspace is found on the sampled words on which the loss without it is measured",
        },
        "edits": EDITS,
        "protocol": {
            **{name: value for name, value in models[0].attrs.items() if name != "interval"},
            "kl": "nats, mean over pairs; step k is of the k-th token given those before it, exact law || edited model",
            "recovered": "1 - KL_edit / KL_none, both averaged over pairs first",
            "equal_next_law": "pairs of equal next-token law and different beliefs: step 1 must stay, step 2 must move",
            "interval_95": "Student's t over seeds; pairs and directions are drawn anew for each",
            "in_sample": False,
        },
        "seeds": list(results),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def _nested(found: Sequence[xr.Dataset], name: str, *dims: str) -> dict[str, Any]:
    """``{site: {edit: {step: interval over seeds}}}``, whatever the dimensions are."""
    values = np.array([one[name].transpose(*dims).values for one in found], dtype=float)
    labels = [[str(label) for label in found[0][dim].values] for dim in dims]

    def under(index: tuple[int, ...]) -> dict[str, Any]:
        if len(index) == len(dims):
            return interval(values[(slice(None), *index)].tolist())
        return {label: under((*index, i)) for i, label in enumerate(labels[len(index)])}

    return under(())


def draw(recipe: EditRecipe, numbers: Mapping[str, Any], folder: Path) -> Path:
    """The figure of a run as PNG, PDF and SVG, one panel for each token ahead; the path of the PNG."""
    import matplotlib.pyplot as plt

    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN if recipe.ahead > 1 else style.SINGLE_COLUMN, 2.9)
        for step, ax in enumerate(figure.subplots(1, min(recipe.ahead, 2), squeeze=False)[0], start=1):
            edits_display(numbers, step).plot(ax, title=("next token", "token after it")[step - 1])
        protocol = numbers["protocol"]
        style.caption_beneath(
            figure,
            f"{named(recipe.trained)}: {protocol['pairs']:,} pairs of contexts of {protocol['length']} tokens, edits "
            f"fitted on other contexts; {len(numbers['seeds'])} seeds, bars 95 % over them.",
        )
    path = style.save(figure, folder / "edits")[0]
    plt.close(figure)
    return path


def edits_display(numbers: Mapping[str, Any], step: int = 1) -> EditsDisplay:
    """KL by site of one token ahead."""
    by_edit = {edit: [at[edit][str(step)] for at in numbers["kl"].values()] for edit in (*CLAIMED, *CONTROLS)}
    means = {edit: [one["mean"] for one in row] for edit, row in by_edit.items()}
    intervals = {edit: [one["interval_95"] for one in row] for edit, row in by_edit.items()}
    return EditsDisplay(
        sites=list(numbers["kl"]),
        edits={edit: means[edit] for edit in CLAIMED},
        controls={edit: means[edit] for edit in CONTROLS},
        intervals={edit: ends for edit, ends in intervals.items() if None not in ends},
    )


def summary(recipe: EditRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, the KL by edit beside its controls, and what that says."""
    site, protocol = numbers["site"], numbers["protocol"]
    ratio = numbers["wrong_over_covariance"][site]
    twin, ablation = numbers["untrained_twin"], numbers["ablation"]["increase"][site]
    lines = [
        f"{named(recipe.trained)}: {len(numbers['seeds'])} transformers, {protocol['pairs']:,} pairs of contexts of "
        f"{protocol['length']} tokens; probe R² {numbers['probe_r2'][site]['mean']:.4f} at {site}",
        "KL from the law that must follow to what the edited model says, nats, next token:",
        *(_line(f"  {edit}", numbers["kl"][site][edit]["1"], 4, meaning) for edit, meaning in EDITS.items()),
        _line("wrong / right belief", ratio, 1, f"{_verdict(ratio)} {BAR:g}, the bar for a belief that is used"),
        _line("share recovered", numbers["recovered"][site]["covariance"]["1"], 4, "by the covariance edit; at most 1"),
        _line(
            "  untrained twin", twin["recovered"][site]["covariance"]["1"], 4, "the same edit where nothing was learnt"
        ),
        _line("loss without the belief", ablation["along covariance"], 4, "nats more, its subspace ablated"),
        _line("  random subspace", ablation["random"], 4, "nats more, as many dimensions"),
        *_of_equal_law(recipe, numbers),
        f"look at    {folder / 'edits.png'}: does the covariance edit come as low as the true context?",
        f"           a transformer carries nothing on from its last block: see the second panel, and {NUMBERS}",
        f"repeat     {recipe.command}",
    ]
    return "\n".join(lines)


def _of_equal_law(recipe: EditRecipe, numbers: Mapping[str, Any]) -> list[str]:
    """Where pairs of equal next-token law exist: what the edit does to the next token, and to the one after."""
    if numbers["equal_next_law"] is None:
        return ["no two contexts have equal next-token laws and different beliefs"]
    by_site, lines = numbers["equal_next_law"]["kl"], []
    site = min(by_site, key=lambda at: by_site[at]["covariance"][str(recipe.ahead)]["mean"])
    for step in map(str, range(1, recipe.ahead + 1)):
        one, none = by_site[site]["covariance"][step], by_site[site]["none"][step]["mean"]
        lines.append(_line(f"equal next law, token {step}", one, 4, f"covariance edit at {site}; none {none:.4f}"))
    return lines


def _verdict(ratio: Mapping[str, Any]) -> str:
    low = ratio["interval_95"][0] if ratio["interval_95"] else ratio["mean"]
    return "at least" if low >= BAR else "not surely at least" if ratio["mean"] >= BAR else "below"


def _line(name: str, found: Mapping[str, Any], digits: int, note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.{digits}f}, {spread[1]:.{digits}f}]" if spread else "(one seed, no interval)"
    return f"{name:24s} {found['mean']:8.{digits}f}  {bounds:22s} {note}"
