"""Recurrent networks on PyTorch's own RNN, LSTM and GRU layers, with TransformerLens names inside.

Each layer is fused over time, hooked or not: a hook stands at a layer's output, not inside its recurrence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.hooked_module import HookedModule, Table

LAYERS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}

#: What one layer carries from token to token: the hidden state, and after it the cell of an LSTM.
State = Float[Tensor, "part batch width"]


@dataclass(frozen=True)
class RecurrentConfig:
    """Everything that decides a :class:`Recurrent`, its first weights included.

    Parameters
    ----------
    n_tokens : int
        Size of the vocabulary.
    kind : {"GRU", "LSTM", "RNN"}
        ``RNN`` is Elman's, with tanh.
    n_layers, d_model : int
        Layers, one over the other; width of every hidden state.
    one_hot : bool
        Whether the first layer reads one-hot tokens, and there is no ``hook_embed``; otherwise it reads a
        learned embedding of width ``d_model``.
    seed : int
        Of the first weights.

    Raises
    ------
    ValueError
        If a value is out of its range, naming it.

    Examples
    --------
    >>> RecurrentConfig(n_tokens=3, kind="GUR")
    Traceback (most recent call last):
    ...
    ValueError: kind='GUR' is not one of 'RNN', 'LSTM', 'GRU'; did you mean 'GRU'?
    """

    n_tokens: int
    kind: str = "GRU"
    n_layers: int = 2
    d_model: int = 64
    one_hot: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, tuple(LAYERS))
        for name in ("n_tokens", "n_layers", "d_model"):
            at_least(name, getattr(self, name), 1)
        at_least("seed", self.seed, 0)


class Block(nn.Module):
    """One recurrent layer; ``hook_resid_post`` is its hidden state after each token."""

    def __init__(self, config: RecurrentConfig, width: int):
        super().__init__()
        layer = LAYERS[config.kind](width, config.d_model, batch_first=True, device="meta")
        self.layer = layer.to_empty(device="cpu")
        self.hook_resid_post = HookPoint()

    def forward(
        self, x: Float[Tensor, "batch time width_in"], state: State | None
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        has_cell = isinstance(self.layer, nn.LSTM)
        start = tuple(state.split(1)) if has_cell and state is not None else state
        hidden, last = self.layer(x, start)
        hidden = self.hook_resid_post(hidden)
        carried = hidden[None, :, -1]
        return hidden, torch.cat([carried, last[1]]) if has_cell else carried


class Unnormalised(nn.Module):
    """Where a transformer has its final norm; here the value passes as it is."""

    def __init__(self):
        super().__init__()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        return self.hook_normalized(x)


class Recurrent(HookedModule):
    """A stack of recurrent layers; a ``Hooked`` kernel, and a TransformerLens ``HookedRootModule``.

    The hidden state of layer ``i`` after ``tokens[:, : t + 1]`` is ``blocks.{i}.hook_resid_post`` at
    position ``t``; it is the input of layer ``i + 1`` at ``t``, and the last one times ``unembedding``
    is the logits. The state before the first token is 0. There is no limit to the context.

    An edit at a layer's output changes what the layers above read, and not how its own recurrence
    goes on within the same call; :meth:`read_on` carries an edit at the last position forward in time.

    First weights are PyTorch's own: uniform in ±1/sqrt(d_model), a learned embedding N(0, 1); from a
    generator of their own, so ``config.seed`` alone decides them and no global state is touched.

    Parameters
    ----------
    config : RecurrentConfig

    Examples
    --------
    >>> model = Recurrent(RecurrentConfig(n_tokens=3, kind="LSTM", d_model=8))
    >>> model(Batch.from_tokens([[0, 1, 2, 0]])).shape
    torch.Size([1, 3, 3])
    >>> model.sites
    ('hook_embed', 'blocks.0.hook_resid_post', 'blocks.1.hook_resid_post', 'ln_final.hook_normalized')
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config = config
        if not config.one_hot:
            self.embed = Table("W_E", config.n_tokens, config.d_model)
            self.hook_embed = HookPoint()
        widths = [config.n_tokens if config.one_hot else config.d_model] + [config.d_model] * (config.n_layers - 1)
        self.blocks = nn.ModuleList(Block(config, width) for width in widths)
        self.ln_final = Unnormalised()
        self.unembed = Table("W_U", config.d_model, config.n_tokens)
        self.setup()
        generator, bound = torch.Generator().manual_seed(config.seed), 1.0 / math.sqrt(config.d_model)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "embed.W_E":
                    parameter.normal_(generator=generator)
                else:
                    parameter.uniform_(-bound, bound, generator=generator)

    def untrained(self, seed: int | None = None) -> Recurrent:
        """A twin with initial weights: its own (None), or those of another seed; same device, same dtype."""
        seed = self.config.seed if seed is None else seed
        return Recurrent(replace(self.config, seed=seed)).to(self.device, self.unembed.W_U.dtype)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Logits.

        Raises
        ------
        ValueError
            If a token is not below ``n_tokens``, or the batch has positions or an attention of its own.
        """
        return self.read_on(batch)[0]

    def read_on(
        self, batch: Batch, states: tuple[State, ...] | None = None
    ) -> tuple[Float[Tensor, "batch time vocab"], tuple[State, ...]]:
        """Logits, and the state of every layer after the last token: what a further call reads on from.

        Two stretches read one after the other give what the whole would give. The hidden state that is
        returned is the value that left ``hook_resid_post``: an edit there, at the last position, is the
        state from which the recurrence continues.

        Parameters
        ----------
        batch : Batch
            Positions count from the start of the stretch.
        states : tuple of Float[Tensor, "part batch width"], optional
            One for each layer, as returned; nothing has been read if None. A second part is the cell
            of an LSTM.

        Raises
        ------
        ValueError
            As a call does; also if ``states`` are not those of such a model and batch.
        """
        refuse_out_of_range("tokens", batch.tokens, self.config.n_tokens, limit_name="n_tokens")
        _refuse_what_only_attention_reads(batch)
        states = (None,) * len(self.blocks) if states is None else self._checked(states, len(batch))
        x, after = self._embedded(batch.tokens), []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block(x, state)
            after.append(state)
        return self.ln_final(x) @ self.unembed.W_U, tuple(after)

    def _embedded(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time width_in"]:
        if self.config.one_hot:
            return F.one_hot(tokens, self.n_tokens).to(self.unembed.W_U.dtype)
        return self.hook_embed(F.embedding(tokens, self.embed.W_E))

    def _checked(self, states: tuple[State, ...], n: int) -> tuple[State, ...]:
        parts = 2 if self.config.kind == "LSTM" else 1
        expected = [(parts, n, self.config.d_model)] * len(self.blocks)
        given = [tuple(state.shape) for state in states]
        if given != expected:
            raise ValueError(f"states have shapes {given}; for this model and batch they must be {expected}")
        return states


def _refuse_what_only_attention_reads(batch: Batch) -> None:
    if batch.attend is not None:
        raise ValueError("attend is given; a recurrent network reads one token after another, so it must be None")
    in_order = torch.arange(batch.tokens.shape[1], device=batch.device)
    if not torch.equal(batch.positions, in_order.expand(batch.positions.shape)):
        raise ValueError(
            f"positions run over {int(batch.positions.min())} .. {int(batch.positions.max())}; a recurrent network "
            f"knows no positions but the order of its tokens, 0 .. {len(in_order) - 1}"
        )
