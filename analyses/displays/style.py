"""What every display shares: the numbers it accepts, how it looks, and how it is saved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure

from nextlens.models.arguments import one_of

#: Widths of a printed column and of a printed page, in inches.
SINGLE_COLUMN, DOUBLE_COLUMN = 3.3, 6.9

#: The smallest text of any display, in points.
SMALLEST_TEXT = 7.0

#: Okabe and Ito's colours, told apart by readers with any common colour vision, in our order
#: (https://jfly.uni-koeln.de/color/, 2008); black and yellow are left out: ink, and too pale for lines.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

#: Corners of the belief simplex: Okabe and Ito's orange and sky blue, and a dark plum. Under simulated
#: protanopia, deuteranopia and tritanopia the three stay at least 50 apart in CIELAB.
CORNER_COLOURS = ("#E69F00", "#56B4E9", "#5C1049")

INK, GREY = "0.15", "0.45"

#: Dashes that tell grey lines apart.
DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2, 1)))

SAVED_AS = ("png", "pdf", "svg")

_LOOK = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "axes.titlepad": 4.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": SMALLEST_TEXT,
    "ytick.labelsize": SMALLEST_TEXT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
}

_FILE = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "nextlens"}


@contextmanager
def printed() -> Iterator[None]:
    """While open, figures are made for a printed column; matplotlib's own settings return afterwards."""
    with _settings(_LOOK):
        yield


@contextmanager
def _settings(wanted: Mapping[str, object]) -> Iterator[None]:
    """Change these settings alone, for a while.

    ``matplotlib.rc_context`` would put back all of them, and with them the interactive mode that a
    notebook turns on when its first figure is made: later figures would not be shown.
    """
    before = {name: mpl.rcParams[name] for name in wanted}
    mpl.rcParams.update(wanted)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` by ``height`` inches that makes room for its labels."""
    return plt.figure(figsize=(width, height), layout="constrained")


def caption_beneath(figure: Figure, caption: str | None) -> None:
    """Print ``caption`` under everything, broken into lines that fit the width."""
    if caption is None:
        return
    letters_per_inch = 18
    lines = textwrap.wrap(caption, max(20, int(figure.get_figwidth() * letters_per_inch)))
    figure.supxlabel("\n".join(lines), fontsize=SMALLEST_TEXT, color=GREY)


def save(figure: Figure, stem: str | Path, formats: Sequence[str] = SAVED_AS) -> list[Path]:
    """Write ``figure`` beside ``stem``, once per format, and return the paths.

    The same figure always gives the same bytes: no date is written, and names inside an SVG are fixed.

    Parameters
    ----------
    figure : Figure
        What a display keeps as ``figure_``.
    stem : path
        Path without ending; ``"results/simplex"`` gives ``results/simplex.png`` and its like.
    formats : sequence of {"png", "pdf", "svg"}, default all three
        PNG is written at 300 dots per inch.

    Raises
    ------
    ValueError
        If a format is none of the three.
    """
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    paths = []
    for kind in [one_of("formats", kind, SAVED_AS) for kind in formats]:
        paths.append(Path(f"{stem}.{kind}"))
        with _settings(_FILE):
            figure.savefig(paths[-1], dpi=300, metadata=undated[kind])
    return paths


def finite(name: str, values: object, *axes: str) -> Float[np.ndarray, "*any"]:
    """``values`` as float64, or a refusal that says which number or axis is wrong.

    Parameters
    ----------
    name : str
        What the caller calls the argument.
    values : array-like
        What it was given.
    *axes : str
        What each axis counts, e.g. ``"point", "state"``.

    Raises
    ------
    ValueError
        If the number of axes differs, an axis is empty, or a value is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(axes) or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; it must have axes ({', '.join(axes)}), none empty")
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        where = f"[{', '.join(map(str, wrong[0]))}]" if axes else ""
        raise ValueError(f"{name}{where}={array[tuple(wrong[0])]} must be a finite number")
    return array


def same_shape(name: str, values: Float[np.ndarray, "*any"], other: str, shape: tuple[int, ...]) -> None:
    """Refuse ``values`` unless they have the ``shape`` that ``other`` sets.

    Raises
    ------
    ValueError
        Naming both arguments and both shapes.
    """
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; {other} asks for {shape}")


def mix(shares: Float[np.ndarray, "point corner"], colours: Sequence[str]) -> Float[np.ndarray, "point channel"]:
    """Linear-light RGB of ``colours`` mixed in the given ``shares``, as lamps mix; see :func:`to_srgb`.

    Shares below zero count as zero, and each row is divided by its sum.
    """
    lamps = to_linear(np.array([to_rgb(colour) for colour in colours]))
    shares = shares.clip(0.0)
    return shares @ lamps / shares.sum(axis=1, keepdims=True)


def to_linear(srgb: Float[np.ndarray, "*point channel"]) -> Float[np.ndarray, "*point channel"]:
    """Light intensities behind sRGB values in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Float[np.ndarray, "*point channel"]) -> Float[np.ndarray, "*point channel"]:
    """The inverse of :func:`to_linear`, kept inside [0, 1]."""
    linear = linear.clip(0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).clip(0.0, 1.0)


def label_ends(ax: Axes, labels: Sequence[str], heights: Sequence[float], colours: Sequence[str]) -> list:
    """Name curves at the right edge of ``ax``, each beside its last height, none over another.

    Call it when the limits are final. ``heights`` are in data units; a hair line joins a name that had to
    move to the height it speaks of.
    """
    owner = ax.figure
    while isinstance(owner, SubFigure):
        owner = owner.figure
    owner.draw_without_rendering()
    box = ax.get_window_extent()
    points = np.column_stack([np.zeros(len(heights)), heights])
    wanted = (ax.get_yaxis_transform().transform(points)[:, 1] - box.y0) / box.height
    line = 1.25 * SMALLEST_TEXT / 72 * owner.dpi / box.height
    texts = []
    for label, colour, start, place in zip(labels, colours, wanted, spread(wanted, line), strict=True):
        texts.append(
            ax.annotate(
                label,
                xy=(1.0, start),
                xytext=(1.05, place),
                xycoords="axes fraction",
                textcoords="axes fraction",
                fontsize=SMALLEST_TEXT,
                color=colour,
                va="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "lw": 0.5,
                    "color": colour,
                    "shrinkA": 0,
                    "shrinkB": 0,
                    "relpos": (0.0, 0.5),
                },
            )
        )
    return texts


def spread(wanted: Float[np.ndarray, " label"], gap: float) -> Float[np.ndarray, " label"]:
    """The places nearest ``wanted`` (least squares) in the same order and at least ``gap`` apart.

    Neighbours that would touch are pooled around their mean, as in isotonic regression
    (Barlow et al., 1972, *Statistical inference under order restrictions*).
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    pools: list[list[float]] = []
    for value in np.asarray(wanted, dtype=np.float64)[order] - steps:
        pools.append([float(value)])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    places = np.empty(len(wanted))
    places[order] = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) + steps
    return places
