"""Shares solved against the seconds of training, every seed by itself."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from nextlens.analyses.displays import style


class StaircaseDisplay:
    """One line a seed, beside the plateau of those who guess.

    Seeds end when they have solved the task or their time is up, so each has its own seconds.

    Parameters
    ----------
    seconds, solved : sequence of arrays of shape (look,)
        One a seed.
    guess : number
        What is solved without a plan.
    names : sequence of str
        Of the seeds.
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and each line by its name.

    Raises
    ------
    ValueError
        If there is no seed, lengths differ, or a number is not finite.
    """

    def __init__(
        self,
        *,
        seconds: Sequence[object],
        solved: Sequence[object],
        guess: float,
        names: Sequence[str],
        caption: str | None = None,
    ):
        if not len(names) == len(seconds) == len(solved) >= 1:
            raise ValueError(
                f"there are {len(names)} names, {len(seconds)} seconds and {len(solved)} solved; "
                "each seed needs one of each, and there must be a seed"
            )
        self.seconds = [
            style.finite(f"seconds of {name}", one, "look") for name, one in zip(names, seconds, strict=True)
        ]
        self.solved = [style.finite(f"solved of {name}", one, "look") for name, one in zip(names, solved, strict=True)]
        for name, x, y in zip(names, self.seconds, self.solved, strict=True):
            style.same_shape(f"solved of {name}", y, "its seconds", x.shape)
        self.guess, self.names, self.caption = float(style.finite("guess", guess)), list(names), caption

    def plot(self, ax: Axes | None = None) -> StaircaseDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.3).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            plateau = ax.axhline(self.guess, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.9)
            self.artists_ = {"guess of the arm": plateau}
            for k, (name, x, y) in enumerate(zip(self.names, self.seconds, self.solved, strict=True)):
                colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
                (self.artists_[name],) = ax.plot(x, y, color=colour, marker="o", markersize=2)
            ax.set(xlabel="CPU seconds of training", ylabel="share of graphs solved", ylim=(-0.02, 1.02))
            lines = self.artists_.values()
            ends = [float(line.get_ydata()[-1]) for line in lines]
            style.label_ends(ax, list(self.artists_), ends, [line.get_color() for line in lines])
        self.ax_, self.figure_ = ax, ax.figure
        return self
