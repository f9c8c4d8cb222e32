"""NextLat's dynamics as a draft: it says several tokens from one state, and the model looks at them all at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.induction.votes import Matcher, Places, Votes
from nextlens.models.objectives.next_latent import NextLatent


class LatentDraft(Matcher):
    """Laws that are read off the latent dynamics, for :func:`~nextlens.models.induction.speculative.speculate`.

    With ``h`` the model's state behind all tokens but the last, the first law is ``softmax(dynamics(h, e(last)) W_U)``;
    each of the next ``ahead - 1`` follows from the state before it and the token that was proposed, without the model
    (self-speculative decoding, arXiv:2511.05963, §3). Then the model's own state is taken again. What comes out of
    ``speculate`` has the law of the model, whatever the dynamics says.

    Parameters
    ----------
    model : Hooked
    objective : NextLatent
        As trained with it.
    ahead : int, default=4
        As many as ``speculate`` is to propose.

    Raises
    ------
    ValueError
        If ``ahead`` is below 1.
    """

    def __init__(self, model: Hooked, objective: NextLatent, *, ahead: int = 4) -> None:
        self.model, self.objective, self.ahead = model, objective, int(at_least("ahead", ahead, 1))
        self.n_tokens = model.n_tokens
        self._state: Tensor | None = None
        self._read: Int[np.ndarray, " time"] = np.zeros(0, dtype=np.int64)
        self._rolled = 0

    @torch.no_grad()
    def votes(self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None) -> Votes:
        """The law of what follows the whole of ``tokens``, as the weights of one row.

        Raises
        ------
        ValueError
            If another position is asked for, or there are fewer than two tokens.
        """
        if positions is None or positions.tolist() != [len(tokens) - 1]:
            raise ValueError("a latent draft votes for what follows the whole; give positions=[len(tokens) - 1]")
        at_least("the number of tokens", len(tokens), 2)
        goes_on = len(tokens) == len(self._read) + 1 and np.array_equal(tokens[:-1], self._read)
        if self._state is None or not goes_on or self._rolled == self.ahead:
            self._state, self._rolled = self._own_state(tokens[:-1]), 0
        self._state = self.objective.dynamics(self._state, self._embedding(tokens))
        self._read, self._rolled = tokens.copy(), self._rolled + 1
        law = (self._state @ self.model.unembedding).double().softmax(-1).cpu().numpy()
        said = np.flatnonzero(law > 0)
        return Votes.of_rows([(0, said, law[said])])

    def places(self, tokens: Int[np.ndarray, " time"]) -> Places:
        """There are none.

        Raises
        ------
        ValueError
            Always: a dynamics points nowhere.
        """
        raise ValueError("a latent draft points to no place; it reads a state")

    def _own_state(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        return self._watched(self.objective.site, tokens)

    def _embedding(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        return self._watched(self.objective.embedding_site, tokens[-1:])

    def _watched(self, site: str, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        device = next((weight.device for weight in self.objective.parameters()), None)
        batch = Batch.from_tokens(np.append(tokens, 0)[None], device=device)
        with self.model.watched(site) as seen:
            self.model(batch)
        return seen[site][0, -1]
