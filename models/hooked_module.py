"""What every hooked module of ours shares: sites by name, watched and edited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from nextlens.models.batch import Batch
from nextlens.models.hooked import Edit, canonical_site
from nextlens.models.vocabulary import Vocabulary


class Table(nn.Module):
    """Holds one parameter under TransformerLens's name for it."""

    def __init__(self, name: str, *shape: int):
        super().__init__()
        setattr(self, name, nn.Parameter(torch.empty(*shape)))


class GridTable(nn.Module):
    """Positions in two dimensions: row and column are looked up in one table, and added.

    ``W_pos[r * side + c] = W_side[r] + W_side[c]``, so that places have ``side`` rows of weights and not ``side²``.
    """

    def __init__(self, side: int, width: int):
        super().__init__()
        self.W_side = nn.Parameter(torch.empty(side, width))

    @property
    def W_pos(self) -> Float[Tensor, "place width"]:
        """The table of all places, row by row."""
        return (self.W_side[:, None] + self.W_side).flatten(0, 1)


class HookedModule(HookedRootModule):
    """A ``Hooked`` kernel but for its forward pass: a TransformerLens ``HookedRootModule`` with named sites.

    Whoever inherits has a ``config`` with ``n_tokens``, an ``unembed.W_U``, and calls ``setup()`` when
    all parts are made.

    Attributes
    ----------
    vocabulary : Vocabulary, optional
        What the tokens spell, if somebody said so.
    """

    vocabulary: Vocabulary | None = None

    @property
    def n_tokens(self) -> int:
        return self.config.n_tokens

    @property
    def device(self) -> torch.device:
        return self.unembed.W_U.device

    @property
    def sites(self) -> tuple[str, ...]:
        """Every readable value, in the order in which it is computed."""
        return tuple(self.hook_dict)

    @property
    def unembedding(self) -> Float[Tensor, "width vocab"]:
        """Times the value at ``ln_final.hook_normalized``, the logits."""
        return self.unembed.W_U

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities of every next token at every position."""
        return self(batch).log_softmax(-1)

    @contextmanager
    def watched(self, *sites: str) -> Iterator[dict[str, Tensor]]:
        """While open, what passes through ``sites`` is kept, with its graph, under the name given.

        Raises
        ------
        ValueError
            If a site does not exist; the nearest ones are named.
        """
        seen: dict[str, Tensor] = {}

        def keep(value: Tensor, *, hook: HookPoint, site: str) -> None:
            seen[site] = value

        points = [(canonical_site(site, self.sites), partial(keep, site=site)) for site in sites]
        with self.hooks(fwd_hooks=points):
            yield seen

    @contextmanager
    def edited(self, site: str, edit: Edit) -> Iterator[None]:
        """While open, what ``edit(value)`` returns at ``site``, unless None, replaces the value.

        Hooks run in the order in which they are opened: ``watched`` inside ``edited`` sees the edited
        value, outside it the original.

        Raises
        ------
        ValueError
            If the site does not exist; the nearest ones are named.
        """
        with self.hooks(fwd_hooks=[(canonical_site(site, self.sites), lambda value, hook: edit(value))]):
            yield
