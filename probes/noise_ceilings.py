"""How well the best model could do, given the noise: from repeats, from other listeners, from halves.

No ceiling is clipped and no score is divided by one in silence. A target whose signal has no positive power has
no ceiling: it is NaN, and counted. To normalise, ``r / ceiling`` or ``r² / reliability``, never ``(r / reliability)²``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.ridge import refuse_not_finite
from nextlens.probes.voxel_scores import correlations, flat

KINDS = ("repeats", "inter-subject", "split-half")

#: Random halves; one alone, even against odd, is off by up to .1.
HALVES = 500


def noise_ceiling(
    kind: str, responses: xr.DataArray, *, rng: np.random.Generator | None = None, halves: int = HALVES
) -> xr.Dataset:
    """The ceiling of each target, if the data can tell it.

    Parameters
    ----------
    kind : {"repeats", "inter-subject", "split-half"}
        The same listener who heard the same story again; each listener against the mean of the others; halves of
        the listeners, or of the repeats, against each other.
    responses : DataArray, dims (repeat, row, target) or (listener, row, target)
    rng : numpy.random.Generator, optional
        For halves.
    halves : int, default=500

    Returns
    -------
    Dataset
        As :func:`repeat_ceiling`, :func:`inter_subject_ceiling` or :func:`split_half_ceiling`.

    Raises
    ------
    ValueError
        If the data lack what the kind needs: what that is, and what they are.

    Examples
    --------
    >>> signal = np.sin(np.arange(50.0))[:, None]
    >>> heard = xr.DataArray(np.stack([signal, signal]), dims=("repeat", "row", "target"))
    >>> noise_ceiling("repeats", heard).ceiling.values.round(6).tolist()
    [1.0]
    """
    one_of("kind", kind, KINDS)
    several = {"repeats": ("repeat",), "inter-subject": ("listener",), "split-half": ("repeat", "listener")}[kind]
    first = responses.dims[0] if responses.ndim == 3 else None
    if first not in several or responses.dims[1:] != ("row", "target") or len(responses) < 2:
        sizes = responses.dims if first not in several else dict(responses.sizes)
        raise ValueError(
            f"kind={kind!r} needs responses of dims ({' or '.join(several)}, row, target), at least 2 of the first; "
            f"these are {sizes}: responses that were averaged, or measured once, have no such ceiling"
        )
    refuse_not_finite(responses=responses.values)
    if kind == "repeats":
        found = repeat_ceiling(responses.values)
    elif kind == "inter-subject":
        found = inter_subject_ceiling(responses.values)
    elif rng is None:
        raise ValueError("kind='split-half' draws halves at random; hand in rng=")
    else:
        found = split_half_ceiling(responses.values, rng, halves=halves)
    found.attrs |= {"kind": kind, "n": len(responses), "n_without_signal": int(np.isnan(found.ceiling).sum())}
    return found.assign_coords({k: v for k, v in responses.coords.items() if v.dims == ("target",)})


def repeat_ceiling(repeats: Float[np.ndarray, "repeat row target"]) -> xr.Dataset:
    """From N repeats: the power of what they share, and how well it can be correlated with their mean.

    With variances over rows, R̄ the mean of the repeats, and z their z-scores::

        signal_power = (var(Σ_n R_n) - Σ_n var(R_n)) / (N (N - 1))
        ceiling = √(signal_power / var(R̄))                 the correlation of the signal with R̄
        explainable_variance = EV - (1 - EV) / (N - 1),    EV = var(mean_n z_n) / mean_n var(z_n)

    ``explainable_variance_raw`` is EV, which is 1/N for noise. A single repeat is noisier than R̄: its ceiling is
    ``√(signal_power / mean_n var(R_n))``, given as ``ceiling_of_one``.

    Sahani and Linden, "How linear are auditory cortical responses?", NIPS 15, 2003; Schoppe et al., "Measuring the
    performance of neural models", Frontiers in Computational Neuroscience 10, 2016.
    """
    n = at_least("number of repeats", len(repeats), 2)
    exact = repeats.astype(np.float64)
    dead = np.array([flat(one) for one in repeats]).any(0)
    own = exact.var(1)
    power = np.where(dead, np.nan, (exact.sum(0).var(0) - own.sum(0)) / (n * (n - 1)))
    z = (exact - exact.mean(1, keepdims=True)) / np.sqrt(np.where(dead, np.nan, own))[:, None]
    raw = z.mean(0).var(0)
    return xr.Dataset(
        {
            "ceiling": ("target", _root(power, exact.mean(0).var(0))),
            "ceiling_of_one": ("target", _root(power, own.mean(0))),
            "signal_power": ("target", power),
            "explainable_variance": ("target", raw - (1 - raw) / (n - 1)),
            "explainable_variance_raw": ("target", raw),
        }
    )


def normalised_correlation(
    guess: Float[np.ndarray, "row target"], repeats: Float[np.ndarray, "repeat row target"]
) -> Float[np.ndarray, " target"]:
    """``cov(ŷ, R̄) / √(var(ŷ) signal_power)``: the correlation with the signal; NaN where it has no power.

    It is ``r / ceiling``, and may be above 1 by chance: it is not clipped.
    """
    return correlations(repeats.mean(0), guess) / repeat_ceiling(repeats).ceiling.values


def inter_subject_ceiling(listeners: Float[np.ndarray, "listener row target"]) -> xr.Dataset:
    """``r_i = corr(y_i, mean of the others)``, and its mean: how well one listener can be told from the others.

    A lower bound for the prediction of one listener, since the others' mean is noisy itself. The mean that
    includes the listener would be too high, and is not offered. A negative mean is no signal: its ceiling is NaN.
    """
    n = at_least("number of listeners", len(listeners), 2)
    exact = listeners.astype(np.float64)
    total = exact.sum(0)
    each = np.array([correlations(one, (total - one) / (n - 1)) for one in exact])
    mean = each.mean(0)
    return xr.Dataset(
        {
            "ceiling": ("target", np.where(mean > 0, mean, np.nan)),
            "r": ("target", mean),
            "r_each": (("listener", "target"), each),
        }
    )


def split_half_ceiling(
    units: Float[np.ndarray, "unit row target"], rng: np.random.Generator, *, halves: int = HALVES
) -> xr.Dataset:
    """From random halves of listeners or repeats: c, the mean correlation of their means.

    ``reliability = 2 c / (1 + c)`` is that of the mean of all (Spearman and Brown), and ``ceiling = √reliability``
    the correlation with that mean which a perfect model has. ``half_sd`` is the spread of c over halves: one
    arbitrary half says little. Of an odd number, one unit is left out of each draw.

    Spearman, "Correlation calculated from faulty data", British Journal of Psychology 3, 1910; Brown, ibid.
    """
    n = at_least("number of units", len(units), 2)
    at_least("halves", halves, 1)
    exact = units.astype(np.float64)
    found = np.empty((halves, units.shape[2]))
    for draw in range(halves):
        order = rng.permutation(n)
        found[draw] = correlations(exact[order[: n // 2]].mean(0), exact[order[n // 2 : 2 * (n // 2)]].mean(0))
    c = found.mean(0)
    reliability = 2 * c / (1 + c)
    return xr.Dataset(
        {
            "ceiling": ("target", _root(reliability, np.ones_like(c))),
            "reliability": ("target", reliability),
            "half_r": ("target", c),
            "half_sd": ("target", found.std(0)),
        }
    )


def _root(top: Float[np.ndarray, " target"], bottom: Float[np.ndarray, " target"]) -> Float[np.ndarray, " target"]:
    return np.sqrt(np.divide(top, bottom, out=np.full_like(top, np.nan), where=(top > 0) & (bottom > 0)))
