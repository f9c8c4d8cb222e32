"""A kernel with named insides."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from nextlens.models.arguments import one_of
from nextlens.models.batch import Batch

#: What may stand at a site instead of the value that passes; None leaves it as it is.
Edit = Callable[[Tensor], Tensor | None]


@runtime_checkable
class Hooked(Protocol):
    """A kernel whose intermediate values can be read and replaced by name.

    Site names are TransformerLens's (``blocks.3.hook_resid_post``); the short form without
    ``hook_`` (``blocks.3.resid_post``) is accepted everywhere and means the same site.

    Attributes
    ----------
    n_tokens : int
        Size of the vocabulary.
    sites : tuple of str
        Every readable value, in the order in which it is computed.
    unembedding : Float[Tensor, "width vocab"]
        Times the value at the last site before it, the logits.
    """

    @property
    def n_tokens(self) -> int: ...

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def unembedding(self) -> Float[Tensor, "width vocab"]: ...

    def __call__(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Logits."""
        ...

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities."""
        ...

    def watched(self, *sites: str) -> AbstractContextManager[dict[str, Tensor]]:
        """While open, what passes through ``sites`` is kept, with its graph, under the name given.

        Hooks run in the order in which they are opened: ``watched`` opened inside ``edited`` sees the
        edited value, outside it the original.
        """
        ...

    def edited(self, site: str, edit: Edit) -> AbstractContextManager[None]:
        """While open, what ``edit(value)`` returns at ``site``, unless None, replaces the value."""
        ...


def canonical_site(site: str, sites: Collection[str]) -> str:
    """The full name of ``site``: itself if it is one of ``sites``, else with ``hook_`` put in.

    Raises
    ------
    ValueError
        If neither is a site; the nearest ones are named.

    Examples
    --------
    >>> canonical_site("blocks.0.resid_post", ["hook_embed", "blocks.0.hook_resid_post"])
    'blocks.0.hook_resid_post'
    """
    head, dot, last = site.rpartition(".")
    hooked = f"{head}{dot}hook_{last}"
    if site not in sites and hooked in sites:
        return hooked
    return one_of("site", site, sites, whole_list="model.sites")
