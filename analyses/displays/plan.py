"""What the residual stream holds of a path that is still to be said, place by place and block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nextlens.analyses.displays import style


class PlanDisplay:
    """A panel for each place where a plan may be, a colour for each quantity, a line for each seed.

    Parameters
    ----------
    shares : mapping of str to array of shape (seed, block, quantity)
        By the title of the panel; block 0 is the embedding.
    names : sequence of str
        Of the quantities.
    ylabel : str
    references : mapping of str to number, optional
        Heights of dashed lines, by what is written at their ends.
    controls : mapping of str to array of shape (seed, block, quantity), optional
        As ``shares``: their means over seeds are drawn dashed, in the colours of the quantities.
    control_name : str, optional
        Of the controls, in the legend.
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
        shares: Mapping[str, object],
        names: Sequence[str],
        ylabel: str,
        references: Mapping[str, float] | None = None,
        controls: Mapping[str, object] | None = None,
        control_name: str = "control",
        caption: str | None = None,
    ):
        if not shares:
            raise ValueError("shares is empty; it must hold at least one place")
        self.shares = {
            place: style.finite(f"shares[{place!r}]", one, "seed", "block", "quantity") for place, one in shares.items()
        }
        first = next(iter(self.shares.values())).shape
        for place, one in self.shares.items():
            style.same_shape(f"shares[{place!r}]", one, "the first place", (*first[:2], len(names)))
        if controls is not None and controls.keys() != shares.keys():
            raise ValueError(f"controls are of {list(controls)}; they must be of the places {list(shares)}")
        self.controls = {
            place: style.finite(f"controls[{place!r}]", one, "seed", "block", "quantity")
            for place, one in (controls or {}).items()
        }
        for place, one in self.controls.items():
            style.same_shape(f"controls[{place!r}]", one, "the first place", (*first[:2], len(names)))
        self.control_name = control_name
        self.names, self.ylabel, self.caption = list(names), ylabel, caption
        self.references = {
            name: float(style.finite(f"references[{name!r}]", height)) for name, height in (references or {}).items()
        }

    def plot(self) -> PlanDisplay:
        """Draw in a new figure."""
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 2.5)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(1, len(self.shares), sharey=True, squeeze=False)[0]
            for ax, (place, rows) in zip(axes, self.shares.items(), strict=True):
                blocks = np.arange(rows.shape[1])
                for height, dash in zip(self.references.values(), style.DASHES, strict=False):
                    ax.axhline(height, color=style.GREY, linestyle=dash, linewidth=0.9)
                for k, name in enumerate(self.names):
                    colour, mark = style.OKABE_ITO[k % len(style.OKABE_ITO)], "osD^vP"[k % 6]
                    lines = ax.plot(blocks, rows[:, :, k].T, color=colour, marker=mark, markersize=2.5)
                    lines[0].set_label(name)
                    if self.controls:
                        ax.plot(
                            blocks, self.controls[place][:, :, k].mean(0), color=colour, linestyle="--", linewidth=1.2
                        )
                ax.set_xticks(blocks)
                ax.set(title=place, xlabel="after block", ylim=(-0.02, 1.02))
            axes[0].set_ylabel(self.ylabel)
            if self.controls:
                axes[0].plot([], [], color=style.GREY, linestyle="--", linewidth=1.2, label=self.control_name)
            if self.references:
                heights = list(self.references.values())
                style.label_ends(axes[-1], list(self.references), heights, [style.GREY] * len(heights))
            figure.legend(
                *axes[0].get_legend_handles_labels(),
                loc="outside upper center",
                ncols=len(self.names) + bool(self.controls),
                frameon=False,
                fontsize=style.SMALLEST_TEXT,
            )
        self.axes_, self.figure_ = list(axes), figure
        return self
