"""How well the nodes of a path can be read off the residual stream before they are said, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nextlens.analyses.displays import style


class PlanDisplay:
    """A panel for each place where a plan may be, a colour for each node, a line for each seed.

    Parameters
    ----------
    accuracy : mapping of str to array of shape (seed, block, node)
        By place; block 0 is the embedding.
    nodes : sequence of int
        Which nodes, counted along the path from the centre, 0.
    guess, chance : number
        Accuracy of whoever knows the graph but not the arm, and of whoever knows nothing.
    caption : str, optional

    Attributes
    ----------
    axes_, figure_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there is no place, a shape does not fit, or a number is not finite.
    """

    def __init__(
        self,
        *,
        accuracy: Mapping[str, object],
        nodes: Sequence[int],
        guess: float,
        chance: float,
        caption: str | None = None,
    ):
        if not accuracy:
            raise ValueError("accuracy is empty; it must hold at least one place")
        self.accuracy = {
            place: style.finite(f"accuracy[{place!r}]", one, "seed", "block", "node") for place, one in accuracy.items()
        }
        first = next(iter(self.accuracy.values())).shape
        for place, one in self.accuracy.items():
            style.same_shape(f"accuracy[{place!r}]", one, "the first place", (*first[:2], len(nodes)))
        self.nodes, self.caption = list(nodes), caption
        self.guess, self.chance = float(style.finite("guess", guess)), float(style.finite("chance", chance))

    def plot(self) -> PlanDisplay:
        """Draw in a new figure."""
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 2.3)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(1, len(self.accuracy), sharey=True, squeeze=False)[0]
            for ax, (place, rows) in zip(axes, self.accuracy.items(), strict=True):
                blocks = np.arange(rows.shape[1])
                for height, dash in ((self.guess, style.DASHES[0]), (self.chance, style.DASHES[1])):
                    ax.axhline(height, color=style.GREY, linestyle=dash, linewidth=0.9)
                for k, node in enumerate(self.nodes):
                    colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
                    lines = ax.plot(blocks, rows[:, :, k].T, color=colour, marker="o", markersize=2.5)
                    lines[0].set_label(f"node {node}")
                ax.set_xticks(blocks, ["embed", *map(str, blocks[1:])])
                ax.set(
                    title=f"at the {place}" if place.isalpha() else f"at “{place}”",
                    xlabel="after block",
                    ylim=(0, 1.02),
                )
            axes[0].set_ylabel("held-out accuracy")
            style.label_ends(axes[-1], ["knows no arm", "chance"], [self.guess, self.chance], [style.GREY] * 2)
            axes[0].legend(loc="upper left", frameon=False, fontsize=style.SMALLEST_TEXT)
        self.axes_, self.figure_ = list(axes), figure
        return self
