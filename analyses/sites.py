"""Which sites are probed, one by one or side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.models.hooked import Hooked, canonical_site


def probed_sites(model: Hooked, sites: Sequence[str] | None = None) -> list[str]:
    """Full names of ``sites``; if None the embedding, and the residual stream after every block.

    Raises
    ------
    ValueError
        If ``sites`` is empty, or one does not exist or is named twice.
    """
    if sites is None:
        return [s for s in model.sites if s == "hook_embed" or s.endswith("hook_resid_post")]
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r} must be a list of names: [{sites!r}]")
    names = [canonical_site(site, model.sites) for site in sites]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sites={list(sites)!r} must name at least one site, each once")
    return names


def layers(model: Hooked) -> list[str]:
    """The sites that arXiv:2507.07432 lays side by side.

    For a transformer what enters the first block, what leaves each, and the final norm's output; for a recurrent
    network each layer's hidden state.
    """
    after = [site for site in model.sites if site.endswith("hook_resid_post")]
    if "blocks.0.hook_resid_pre" not in model.sites:
        return after
    return ["blocks.0.hook_resid_pre", *after, "ln_final.hook_normalized"]


def side_by_side(recorded: xr.Dataset, weights: Float[np.ndarray, " sample"] | None = None) -> xr.DataArray:
    """All sites of a recording thinned to samples as one: dims (sample, feature).

    Parameters
    ----------
    recorded : Dataset
        From :func:`~nextlens.models.recording.record` with ``where=``.
    weights : array of shape (sample,), optional
        Divide each site by the root of its mean weighted variance, so that none counts for more because its
        numbers are larger; a site that does not vary stays as it is. As they are if None.
    """
    first = recorded[next(iter(recorded))]
    parts = [recorded[site].values.reshape(first.sizes["sample"], -1) for site in recorded]
    if weights is not None:
        parts = [part / part.dtype.type(_scale(part, weights)) for part in parts]
    return xr.DataArray(np.hstack(parts), dims=("sample", "feature"), coords=first.coords, name="all sites")


def _scale(part: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, " sample"]) -> float:
    moved, share = part.astype(np.float64) - part[0], weights / weights.sum()
    return float(np.sqrt((share @ (moved - share @ moved) ** 2).mean())) or 1.0
