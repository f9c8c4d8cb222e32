"""Features of windows of k tokens, each window encoded once however often it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least, between
from nextlens.models.induction.context_features import ContextFeatures
from nextlens.models.induction.features import POSITIONS_AT_A_TIME, Features, FeatureTable, device_of, reading
from nextlens.models.induction.matching_model import MatchingModel


class WindowFeatures(Features):
    """The feature at a position is that of the window of ``window`` tokens that ends there, read by itself.

    Where fewer tokens have been read, the window is what there is. A window that has been encoded is remembered
    until the weights change: a pass over a document encodes each of its windows once, contexts that overlap share
    theirs, and decoding encodes one window a token.

    Parameters
    ----------
    model : MatchingModel or ContextFeatures
        What encodes; read in the mode it is in, without gradients. Features that read whole contexts are
        confined to windows by this.
    window : int, optional
        The ``n_ctx`` of the model if None.
    remembered : int, default=2**16
        Windows to remember; when there are more, all are forgotten.

    Raises
    ------
    ValueError
        If ``window`` is not within 1 and ``n_ctx``, there is neither, or ``remembered`` is below 0.

    Notes
    -----
    arXiv:2411.00066 trains with windows of 32 tokens and evaluates with 64, in which a position still looks at
    32: ``MatchingConfig(reach=32, n_ctx=64)``.
    """

    def __init__(self, model: MatchingModel | ContextFeatures, window: int | None = None, *, remembered: int = 2**16):
        n_ctx = model.config.n_ctx if isinstance(model, MatchingModel) else model.n_ctx
        window = n_ctx if window is None else window
        if window is None:
            raise ValueError("window is None, and the features have no n_ctx to take its place")
        self.model, self.n_tokens = model, model.n_tokens
        self.window = at_least("window", window, 1) if n_ctx is None else between("window", window, 1, n_ctx)
        self.remembered = at_least("remembered", remembered, 0)
        self._forget()

    def __call__(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, "time width"]:
        """Of every prefix of ``tokens``."""
        opening = tokens[None, : self.window]
        if len(tokens) <= self.window:
            return self._encoded(opening)[0]
        return self._after(opening, np.lib.stride_tricks.sliding_window_view(tokens, self.window)[1:])

    def last(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        """Of the last window alone."""
        window = tokens[None, -self.window :]
        return self._encoded(window)[0, -1] if window.size < self.window else self._after(window[:0], window)[0]

    def weights(self) -> Iterator[Tensor]:
        """Those of the model."""
        return self.model.parameters() if isinstance(self.model, MatchingModel) else self.model.weights()

    def _after(
        self, opening: Int[np.ndarray, "one_or_none window"], windows: Int[np.ndarray, "some window"]
    ) -> Float[Tensor, "time width"]:
        """Every position of the opening, then the last of each window; those not remembered are encoded with it."""
        names = [window.tobytes() for window in windows.astype(np.int32 if self.n_tokens <= 2**31 else np.int64)]
        if self._made_with != self._state_of_weights():
            self._forget()
        new = {name: place for place, name in enumerate(names) if name not in self._place}
        if len(self._place) + len(new) > self.remembered:
            self._forget()
            new = {name: place for place, name in enumerate(names)}
        unread = np.concatenate([opening, windows[np.fromiter(new.values(), np.int64, len(new))]])
        at_a_time = max(1, POSITIONS_AT_A_TIME // self.window)
        read = []
        for first in range(0, len(unread), at_a_time):
            encoded = self._encoded(unread[first : first + at_a_time])
            if first == 0:
                read.append(encoded[: len(opening)].flatten(0, 1))
            self._table.append(encoded[len(opening) if first == 0 else 0 :, -1])
        self._place.update(zip(new, range(len(self._place), len(self._place) + len(new)), strict=True))
        rows = np.fromiter((self._place[name] for name in names), np.int64, len(names))
        return torch.cat([*read, self._table.rows()[torch.from_numpy(rows)]])

    @torch.no_grad()
    def _encoded(self, windows: Int[np.ndarray, "some time"]) -> Float[Tensor, "some time width"]:
        if isinstance(self.model, MatchingModel):
            return self.model(reading(windows, device_of(self.model)))
        return self.model.read(windows)

    def _forget(self) -> None:
        self._place: dict[bytes, int] = {}
        self._table, self._made_with = FeatureTable(), self._state_of_weights()

    def _state_of_weights(self) -> tuple[object, ...]:
        """Changes with every step of training, and with a move to another device."""
        return tuple((weight.data_ptr(), weight._version, weight.device) for weight in self.weights())
