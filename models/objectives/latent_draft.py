"""NextLat's dynamics as a draft: it says several tokens from one state, and the model looks at them all at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.induction.context_features import context_of
from nextlens.models.induction.votes import Matcher, Places, Votes
from nextlens.models.objectives.next_latent import NextLatent

#: Embeddings that are read at once where one is missing.
AT_ONCE = 64


class LatentDraft(Matcher):
    """Laws that are read off the latent dynamics, for :func:`~nextlens.models.induction.speculative.speculate`.

    With ``h`` the model's state behind all tokens but the last, the first law is ``softmax(dynamics(h, e(last)) W_U)``;
    each of the next ``ahead - 1`` follows from the state before it and the token that was proposed, without the model
    (self-speculative decoding, arXiv:2511.05963, §3). Then the model's own state is taken again. What comes out of
    ``speculate`` has the law of the model, whatever the dynamics says.

    Embeddings are those of tokens, whatever stands around them: each is read once, and kept. States are kept from the
    last time that the model looked at the text, if it was :attr:`target` that looked: a round then costs one call. Both
    are of the weights as they were: after more training, make another draft.

    Parameters
    ----------
    model : Hooked
    objective : NextLatent
        As trained with it.
    ahead : int, default=4
        As many as ``speculate`` is to propose.

    Attributes
    ----------
    target : Kernel
        The model, whose states are kept while it judges what was proposed.
    calls : int
        Of the model, so far: as a target, for states and for embeddings.

    Raises
    ------
    ValueError
        If ``ahead`` is below 1.

    Examples
    --------
    >>> from nextlens.models.induction.speculative import speculate
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> draft = LatentDraft(Transformer(TransformerConfig(n_tokens=3, n_ctx=16)), NextLatent(64))
    >>> rounds = speculate(draft.target, draft, np.array([0, 1]), length=8, rng=np.random.default_rng(0))
    >>> sum(len(each.tokens) for each in rounds)
    8
    """

    def __init__(self, model: Hooked, objective: NextLatent, *, ahead: int = 4) -> None:
        self.model, self.objective, self.ahead = model, objective, int(at_least("ahead", ahead, 1))
        self.n_tokens, self.target, self.calls = model.n_tokens, _Judge(self), 0
        self._state: Tensor | None = None
        self._read: Int[np.ndarray, " time"] = np.zeros(0, dtype=np.int64)
        self._rolled = 0
        self._looked_at: Int[np.ndarray, " time"] = np.zeros(0, dtype=np.int64)
        self._states: Float[Tensor, "time width"] | None = None
        self._embeddings: dict[int, Float[Tensor, " width"]] = {}

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
        self._state = self.objective.dynamics(self._state, self._embedding(int(tokens[-1])))
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

    def look(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, "one time vocab"]:
        """The model's logits of one text; its states are kept."""
        logits, self._states = self._called(self.objective.site, tokens)
        self._looked_at = tokens.copy()
        return logits

    def _own_state(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        if self._states is None or not np.array_equal(self._looked_at[: len(tokens)], tokens):
            self.look(tokens)
        return self._states[len(tokens) - 1]

    def _embedding(self, token: int) -> Float[Tensor, " width"]:
        if token not in self._embeddings:
            missing = [other for other in range(self.n_tokens) if other != token and other not in self._embeddings]
            read = [token, *missing][: min(AT_ONCE, context_of(self.model) or AT_ONCE)]
            _, rows = self._called(self.objective.embedding_site, np.array(read))
            self._embeddings |= dict(zip(read, rows, strict=True))
        return self._embeddings[token]

    def _called(
        self, site: str, tokens: Int[np.ndarray, " time"]
    ) -> tuple[Float[Tensor, "one time vocab"], Float[Tensor, "time width"]]:
        device = next((weight.device for weight in self.objective.parameters()), None)
        self.calls += 1
        with self.model.watched(site) as seen:
            logits = self.model(Batch.from_tokens(np.append(tokens, 0)[None], device=device))
        return logits, seen[site][0]


class _Judge:
    """The model of a draft as a kernel that looks at one text at a time."""

    def __init__(self, draft: LatentDraft) -> None:
        self._draft, self.n_tokens, self.n_ctx = draft, draft.model.n_tokens, context_of(draft.model)

    def log_probs(self, batch: Batch) -> Float[Tensor, "one time vocab"]:
        if len(batch.tokens) != 1:
            raise ValueError(f"batch holds {len(batch.tokens)} texts; the target of a draft reads one at a time")
        return self._draft.look(batch.tokens[0].cpu().numpy()).log_softmax(-1)
