"""A run on constrained beliefs in numbers, in figures, and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.constrained_beliefs import (
    EXPLANATIONS,
    FINAL,
    MID,
    POST,
    PREDICTORS,
    SITES,
    TARGETS,
    ConstrainedBeliefs,
    affine_control,
    at_least_tokens,
)
from nextlens.analyses.constrained_recipe import ConstrainedRecipe, Setting
from nextlens.analyses.displays import style
from nextlens.analyses.displays.constrained import ConstrainedDisplay
from nextlens.analyses.intervals import interval
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.results_folder import NUMBERS
from nextlens.models.processes.constrained import embedding_coefficients, heads_needed, value_coefficients

#: Share of variance in three principal components after attention and after the final norm, by x and alpha
#: (arXiv:2502.01954).
PUBLISHED_VARIANCE = {
    (0.15, 0.2): (0.967, 0.994),
    (0.15, 0.6): (0.986, 0.981),
    (0.5, 0.6): (0.891, 0.886),
    (0.5, 0.2): (0.917, 0.969),
}
#: Tokens of the longest prefix in the control without a model.
CONTROL_DEPTH = 8


class Measured(NamedTuple):
    """What one transformer gave: its loss and that of its untrained twin, the readings, and both circuits."""

    loss: xr.Dataset
    loss_of_twin: xr.Dataset
    geometry: ConstrainedBeliefs
    circuit: xr.Dataset
    circuit_of_twin: xr.Dataset


def missed(loss: xr.Dataset, opening: float) -> float:
    """Of what can be predicted at all, the share that is not: excess loss over (entropy of one token - optimum)."""
    return float(loss.excess.mean() / (opening - loss.optimum.mean()))


def sum_up(recipe: ConstrainedRecipe, results: Mapping[Setting, Sequence[Measured]]) -> dict[str, Any]:
    """Every number with its protocol, nulls, seeds, interval and the command that repeats it."""
    return {
        "settings": {one.name: _of_setting(recipe, one, found) for one, found in results.items()},
        "protocol": {
            "r2": results[recipe.settings[0]][0].geometry.scores.attrs,
            "left": "(1 - R2) / (1 - R2 of an affine map of the exact other one); 0: it is held, 1: the other would do",
            "r_1_over_belief": "variance that r_1 explains, less that which the belief does, in one model",
            "variance": results[recipe.settings[0]][0].geometry.variance.attrs,
            "paper2025": results[recipe.settings[0]][0].geometry.paper2025.attrs,
            "decay": "least squares of A[d + 1, s] on A[d, s] over s < d; mean attention over words",
            "missed": "excess loss over (entropy of one token - optimum): 0 is the best, 1 to know no context",
            "interval_95": "Student's t over seeds",
        },
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def _of_setting(recipe: ConstrainedRecipe, setting: Setting, found: Sequence[Measured]) -> dict[str, Any]:
    geometries, process = [one.geometry for one in found], setting.process
    opening = float(-(process.opening * np.log(process.opening)).sum())
    return {
        "x": setting.x,
        "alpha": setting.alpha,
        "heads": setting.heads,
        "heads_needed": heads_needed(process),
        "loss_over_optimum": {
            **interval([one.loss.attrs["loss_over_optimum"] for one in found]),
            "untrained twin": interval([one.loss_of_twin.attrs["loss_over_optimum"] for one in found]),
        },
        "missed": {
            **interval([missed(one.loss, opening) for one in found]),
            "untrained twin": interval([missed(one.loss_of_twin, opening) for one in found]),
        },
        "r2": _nested([g.scores.r2 for g in geometries], SITES, TARGETS, PREDICTORS),
        "left": {
            site: {
                target: {who: interval([g.left(site, target, who) for g in geometries]) for who in PREDICTORS[:2]}
                for target in TARGETS[:2]
            }
            for site in SITES
        },
        "variance": _nested([g.variance.r2 for g in geometries], SITES, PREDICTORS[:2], EXPLANATIONS),
        "r_1_over_belief": {site: interval([_over_belief(g, site) for g in geometries]) for site in SITES},
        "paper2025": {
            "r2": _nested([g.paper2025.r2 for g in geometries], SITES, TARGETS, PREDICTORS[:2]),
            "variance": _nested([g.paper2025.variance for g in geometries], SITES, PREDICTORS[:2]),
            "published_variance": _published(setting),
        },
        "control": _control(setting, recipe.longest),
        "attention": _attention([one.circuit for one in found], [one.circuit_of_twin for one in found]),
    }


def _over_belief(geometry: ConstrainedBeliefs, site: str) -> float:
    """How much more of the variance of a site ``r_1`` explains than the belief does; paired, so within one model."""
    explained = geometry.variance.r2.sel(site=site, model="probe")
    return float(explained.sel(explained_by="r_1") - explained.sel(explained_by="belief"))


def _published(setting: Setting) -> dict[str, float] | None:
    known = PUBLISHED_VARIANCE.get((setting.x, setting.alpha))
    return None if known is None else dict(zip((MID, FINAL), known, strict=True))


def _control(setting: Setting, longest: int) -> dict[str, Any]:
    """What one tells of the other without a model: to eight tokens, and on the prefixes that are probed."""
    rows = {
        f"to {CONTROL_DEPTH} tokens": Prefixes.of(setting.process, CONTROL_DEPTH),
        "probed": at_least_tokens(Prefixes.of(setting.process, longest)),
    }
    found = {}
    for name, prefixes in rows.items():
        r2 = affine_control(prefixes).r2
        found[name] = {
            str(direction): {str(how): float(r2.sel(direction=direction, weighting=how)) for how in r2.weighting.values}
            for direction in r2.direction.values
        }
    return found


def _attention(circuits: Sequence[xr.Dataset], twins: Sequence[xr.Dataset]) -> dict[str, Any]:
    """Decays, coefficients and shares, heads in ascending order of what their OV vectors carry along ``v``."""
    zeta = float(circuits[0].zeta)
    ordered = [one.isel(head=np.argsort(one.value.mean("looked_at").values)) for one in circuits]
    found: dict[str, Any] = {
        "zeta": zeta,
        "decay": [interval([float(one.decay[h]) for one in ordered]) for h in range(ordered[0].sizes["head"])],
        "decay_of_kernel": interval([float(one.decay_of_kernel) for one in circuits]),
        "kernel_error": interval([kernel_error(one) for one in circuits]),
        "untrained twin": {
            "decay": interval([float(one.decay.mean()) for one in twins]),
            "decay_of_kernel": interval([float(one.decay_of_kernel) for one in twins]),
            "kernel_error": interval([kernel_error(one) for one in twins]),
        },
        "value": [interval([float(one.value[h].mean()) for one in ordered]) for h in range(ordered[0].sizes["head"])],
        "odd": [
            interval([odd_share(one.pattern[h].values) for one in ordered]) for h in range(ordered[0].sizes["head"])
        ],
        "share_along_displacements": {
            part: interval([float(one.share.sel(part=part)) for one in circuits]) for part in ("embedding", "value")
        },
    }
    if circuits[0].sizes["head"] == 1 and zeta > 0:
        found |= _coefficients(circuits, zeta)
    return found


def _coefficients(circuits: Sequence[xr.Dataset], zeta: float) -> dict[str, Any]:
    """Predicted and measured, position by position, where one head is enough."""

    def by_position(of: Callable[[xr.Dataset], Float[np.ndarray, " position"]]) -> list[dict[str, Any]]:
        return [interval(at) for at in np.array([of(one) for one in circuits]).T]

    return {
        "value_by_position": by_position(lambda one: one.value.values[0, :-1]),
        "value_predicted": by_position(lambda one: value_coefficients(one.pattern.values[0], zeta)),
        "embedding_by_position": by_position(lambda one: one.embedding.values[:-1]),
        "embedding_predicted": by_position(lambda one: embedding_coefficients(one.pattern.values[0], zeta)),
    }


def kernel_error(circuit: xr.Dataset) -> float:
    """Root of the mean square of ``kernel[d, s] - zeta^(d - s)`` over ``s <= d``, without the first two keys.

    The first two cannot be as predicted: softmax makes the first look at itself alone.
    """
    n = circuit.sizes["position"]
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    wanted = float(circuit.zeta) ** distance.clip(0)
    seen = (distance >= 0) & (np.arange(n) >= 2)
    return float(np.sqrt(((circuit.kernel.values - wanted)[seen] ** 2).mean()))


def odd_share(pattern: Float[np.ndarray, "position looked_at"]) -> float:
    """Of the attention that looks back, the share at odd distances, over queries that can look back two or more."""
    distance = np.subtract.outer(np.arange(len(pattern)), np.arange(len(pattern)))
    back = np.where(distance > 0, pattern, 0)[2:]
    return float(back[distance[2:] % 2 == 1].sum() / back.sum())


def _nested(found: Sequence[xr.DataArray], *labels: Sequence[str]) -> dict[str, Any]:
    """``{site: {target: interval over seeds}}``, whatever the dimensions are."""
    values = np.array([one.values for one in found])

    def under(index: tuple[int, ...]) -> dict[str, Any]:
        if len(index) == len(labels):
            return interval(values[(slice(None), *index)].tolist())
        return {label: under((*index, i)) for i, label in enumerate(labels[len(index)])}

    return under(())


def draw(recipe: ConstrainedRecipe, results: Mapping[Setting, Sequence[Measured]], folder: Path) -> dict[str, Path]:
    """One figure a setting, of the first seed, as PNG, PDF and SVG; the paths of the PNGs by setting."""
    import matplotlib.pyplot as plt

    paths = {}
    for setting, found in results.items():
        display = constrained_display(setting, found[0], seed=recipe.seeds[0]).plot_all()
        paths[setting.name] = style.save(display.figure_, folder / setting.name)[0]
        plt.close(display.figure_)
    return paths


def constrained_display(setting: Setting, found: Measured, *, seed: int) -> ConstrainedDisplay:
    """The clouds and the attention of one transformer."""
    geometry, circuit = found.geometry, found.circuit
    attrs = geometry.scores.attrs
    caption = (
        f"Mess3 x={setting.x:g}, α={setting.alpha:g}, {setting.heads} head{'s' * (setting.heads > 1)}, seed {seed}: "
        f"{attrs['rows']:,} prefixes of {attrs['shortest']} tokens and more, held out, 5 folds by prefix. "
        f"R² of r₁ after attention {geometry.r2(MID, 'r_1'):.3f}, of the belief {geometry.r2(MID, 'belief'):.3f}; "
        f"after the MLP {geometry.r2(POST, 'r_1'):.3f} and {geometry.r2(POST, 'belief'):.3f}. "
        f"ζ = {float(circuit.zeta):g}."
    )
    return ConstrainedDisplay(
        belief=geometry.belief,
        r_1=geometry.r_1,
        read_belief=geometry.read_belief,
        read_r_1=geometry.read_r_1,
        weights=geometry.weights,
        pattern=circuit.pattern.values,
        kernel=circuit.kernel.values,
        decay=float(circuit.zeta),
        caption=caption,
    )


def summary(recipe: ConstrainedRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, what each setting gave beside its nulls, and what that says."""
    found = numbers["settings"]
    lines = [
        f"Mess3: {len(found) * len(recipe.seeds)} transformers of one layer, {recipe.steps:,} steps of "
        f"{recipe.batch_size} words of {recipe.n_ctx} tokens, {len(recipe.seeds)} seeds; [95 % interval over seeds]"
    ]
    for one in found.values():
        lines += _about(one)
    lines += _of_heads(found)
    first = next(iter(found))
    lines += [
        f"look at    {folder / f'{first}.png'}: is the cloud after attention r_1, that after the MLP the belief?",
        f"           and {NUMBERS}: every site, the untrained twin, the paper's protocol",
        f"repeat     {recipe.command}",
    ]
    return "\n".join(lines)


def _about(one: Mapping[str, Any]) -> list[str]:
    """Five lines on one setting."""
    variance, twin, attention = one["variance"], PREDICTORS[1], one["attention"]
    exact = one["control"][f"to {CONTROL_DEPTH} tokens"]["r_1 -> belief"]["probability"]
    decays = ", ".join(_short(decay) for decay in attention["decay"])
    paper, published = one["paper2025"]["variance"], one["paper2025"]["published_variance"]
    beside = "" if published is None else f", published {published[MID]:.3f} and {published[FINAL]:.3f}"

    def shares(site: str, who: str = "probe") -> str:
        return " and ".join(_short(variance[site][who][target]) for target in EXPLANATIONS[:2])

    return [
        f"x={one['x']:g} alpha={one['alpha']:g}, {one['heads']} head{'s' * (one['heads'] > 1)} "
        f"({one['heads_needed']} needed): {_short(one['missed'])} of what can be predicted is missed; "
        f"r_1 alone gives the belief with R² {exact:.3f}",
        f"  variance that r_1 and the belief explain: {shares(MID)} after attention, {shares(FINAL)} after the norm; "
        f"untrained {shares(MID, twin)} after attention",
        f"  so {_holds(one['r_1_over_belief'][MID])} after attention, "
        f"{_holds(one['r_1_over_belief'][FINAL])} after the norm",
        f"  decay of attention {decays}, of what reaches r_1 {_short(attention['decay_of_kernel'])}; "
        f"zeta {attention['zeta']:g}, untrained {_short(attention['untrained twin']['decay'])}",
        f"  three components hold {paper[MID]['probe']['mean']:.3f} and {paper[FINAL]['probe']['mean']:.3f} of the "
        f"variance{beside}",
    ]


def _holds(more: Mapping[str, Any]) -> str:
    """Which of the two a site is, as far as seeds agree."""
    ends = more["interval_95"]
    if ends is None or ends[0] <= 0 <= ends[1]:
        return f"neither r_1 nor belief for sure ({more['mean']:+.3f})"
    return f"{'r_1' if ends[0] > 0 else 'belief'} ({more['mean']:+.3f})"


def _of_heads(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Fewer heads than needed against enough, where one process was trained with both."""
    lines = []
    for few in found.values():
        for many in found.values():
            if (few["x"], few["alpha"]) == (many["x"], many["alpha"]) and few["heads"] < few["heads_needed"] <= many[
                "heads"
            ]:
                values = ", ".join(_short(value) for value in many["attention"]["value"])
                lines.append(
                    f"x={few['x']:g}: {few['heads']} head misses {_short(few['missed'])}, {many['heads']} miss "
                    f"{_short(many['missed'])}; their OV vectors carry {values} of v"
                )
    return lines


def _short(found: Mapping[str, Any]) -> str:
    ends = found["interval_95"]
    return f"{found['mean']:.3f}" + ("" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]")
