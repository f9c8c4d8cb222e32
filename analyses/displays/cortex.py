"""Scores on the cortex: both hemispheres of fsaverage5, inflated or flat, from files that nilearn brings along."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of

VIEWS = ("flat", "lateral", "medial")
#: Vertices of a hemisphere.
VERTICES = 10_242
INSTALL = "pip install 'nextlens[brain]'"


class CortexDisplay:
    """One number a vertex, both hemispheres side by side, over a grey ground of folds; one colour bar.

    Vertices without a number (NaN), or whose ``q`` is not below ``threshold_q``, show the ground alone.

    Parameters
    ----------
    left, right : array of shape (10242,)
        On the vertices of fsaverage5.
    q_left, q_right : arrays of shape (10242,), optional
        False-discovery rates.
    view : {"flat", "lateral", "medial"}, default="flat"
        ``flat`` is the sheet cut open; the others look at the inflated surface.
    threshold_q : float, default=0.05
    vmax : float, optional
        Where the colours end; the largest number shown if None. They begin at 0.
    quantity : str, default="correlation r"
    caption : str, optional

    Attributes
    ----------
    axes_, figure_, colour_bar_
        After :meth:`plot`.
    n_shown_ : int
        Vertices that show a number.

    Raises
    ------
    ImportError
        If nilearn, whose package holds the surfaces, is not installed.
    ValueError
        If there is not one number a vertex, or nothing can be shown.
    """

    def __init__(
        self,
        *,
        left: object,
        right: object,
        q_left: object | None = None,
        q_right: object | None = None,
        view: str = "flat",
        threshold_q: float = 0.05,
        vmax: float | None = None,
        quantity: str = "correlation r",
        caption: str | None = None,
    ):
        self.values = [_of_vertices(name, one) for name, one in (("left", left), ("right", right))]
        for side, (name, q) in enumerate((("q_left", q_left), ("q_right", q_right))):
            if q is not None:
                low = np.nan_to_num(_of_vertices(name, q), nan=1.0) < threshold_q
                self.values[side] = np.where(low, self.values[side], np.nan)
        self.view = one_of("view", view, VIEWS)
        self.n_shown_ = int(sum(np.isfinite(one).sum() for one in self.values))
        largest = max((float(np.nanmax(one)) for one in self.values if np.isfinite(one).any()), default=0.0)
        self.vmax = largest if vmax is None else vmax
        if self.n_shown_ and not self.vmax > 0:
            raise ValueError(f"vmax={self.vmax!r} must be above 0, where the colours begin")
        self.quantity, self.caption = quantity, caption

    @classmethod
    def from_volume(cls, image: Any, q: Any = None, **given: Any) -> CortexDisplay:
        """Of an image in MNI space, sampled between the surfaces of fsaverage5.

        Parameters
        ----------
        image, q : nilearn image
            Scores, such as ``masker.inverse_transform(result.r)``, and false-discovery rates.
        """
        surfaces = _surfaces()
        from nilearn.surface import vol_to_surf

        sides = {}
        for side in ("left", "right"):
            for name, one in (("", image), ("q_", q)):
                if one is not None:
                    with warnings.catch_warnings():  # of vertices outside the image, which have no number
                        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
                        found = vol_to_surf(one, surfaces[f"pial_{side}"], inner_mesh=surfaces[f"white_{side}"])
                    sides[f"{name}{side}"] = np.asarray(found).reshape(-1)
        return cls(**sides, **given)

    def plot(self) -> CortexDisplay:
        """Draw on a figure of its own."""
        surfaces = _surfaces()
        colours = mpl.colormaps["magma"]
        scale = Normalize(0.0, self.vmax or 1.0)
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 2.9)
            self.axes_ = figure.subplots(1, 2)
            style.caption_beneath(figure, self.caption)
            for ax, side, values in zip(self.axes_, ("left", "right"), self.values, strict=True):
                corners, faces, folds = _mesh(surfaces, side, self.view)
                ax.add_collection(_painted(corners, faces, folds, values, colours, scale))
                ax.set(aspect="equal", title=f"{side} hemisphere")
                ax.autoscale_view()
                ax.axis("off")
            self.colour_bar_ = figure.colorbar(ScalarMappable(scale, colours), ax=list(self.axes_), shrink=0.7)
            self.colour_bar_.set_label(self.quantity)
        self.figure_ = figure
        return self


def _of_vertices(name: str, values: object) -> Float[np.ndarray, " vertex"]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (VERTICES,):
        raise ValueError(
            f"{name} has shape {array.shape}; it must be ({VERTICES},), one number a vertex of fsaverage5. Regions, "
            "components and voxels of another space have no place on it"
        )
    return array


def _surfaces() -> Any:
    try:
        from nilearn.datasets import fetch_surf_fsaverage
    except ImportError as error:
        raise ImportError(f"surfaces come with nilearn, which is not installed: {INSTALL}") from error
    return fetch_surf_fsaverage("fsaverage5")  # from inside the package; nothing is downloaded


def _mesh(surfaces: Any, side: str, view: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the vertices on the page, faces from back to front, and the depth of folds."""
    from nilearn.surface import load_surf_data, load_surf_mesh

    mesh = load_surf_mesh(surfaces[f"{'flat' if view == 'flat' else 'infl'}_{side}"])
    corners, faces = np.asarray(mesh.coordinates, dtype=np.float64), np.asarray(mesh.faces)
    folds = np.asarray(load_surf_data(surfaces[f"sulc_{side}"]), dtype=np.float64)
    if view == "flat":
        return corners[:, :2], faces, folds
    outward = -1.0 if (side == "left") == (view == "lateral") else 1.0  # the eye is on this side of the x axis
    across = corners[faces]
    normal = np.cross(across[:, 1] - across[:, 0], across[:, 2] - across[:, 0])[:, 0]
    seen = faces[normal * outward > 0]
    order = np.argsort(outward * corners[seen, 0].mean(1))
    return np.stack([outward * corners[:, 1], corners[:, 2]], axis=1), seen[order], folds


def _painted(corners, faces, folds, values, colours, scale) -> PolyCollection:
    """Faces in the mean of the numbers at their corners; grey by depth where no corner has one."""
    depth = folds[faces].mean(1)
    ground = np.where(depth > 0, 0.62, 0.80)
    paint = np.repeat(ground[:, None], 3, axis=1)
    given = np.isfinite(values[faces])
    known = given.any(1)
    mean = np.where(given, values[faces], 0.0).sum(1)[known] / given.sum(1)[known]
    paint[known] = colours(scale(mean))[:, :3]
    return PolyCollection(corners[faces], facecolors=paint, edgecolors=paint, linewidths=0.1, rasterized=True)
