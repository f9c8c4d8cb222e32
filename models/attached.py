"""Any module in memory as a ``Hooked`` kernel: its submodules, named as sites, and a way to read its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.hooked import Edit, canonical_site
from nextlens.models.kernel import refuse_looking_ahead
from nextlens.models.vocabulary import Vocabulary, fitting
from nextlens.models.weights import refuse_not_finite

#: The module and its tokens -> logits.
ReadLogits = Callable[[nn.Module, Int[Tensor, "batch time"]], Float[Tensor, "batch time vocab"]]


def plain_logits(module: nn.Module, tokens: Int[Tensor, "batch time"]) -> Tensor:
    """What ``module(tokens)`` returns: itself, its ``.logits``, or the first of a tuple."""
    said = module(tokens)
    return getattr(said, "logits", said[0] if isinstance(said, tuple) else said)


class Attached(nn.Module):
    """A module of any make as a ``Hooked`` kernel, by PyTorch's own forward hooks; it stays at ``.module``.

    The value at a site is what its submodule returns, or the first of what it returns if that is a tuple.
    A site is called after TransformerLens's manner: ``blocks.0.resid_post`` and ``blocks.0.hook_resid_post``
    are one. The module is put in evaluation mode, and tried once on two tokens.

    Parameters
    ----------
    module : nn.Module
        Causal: what it says after a token must not depend on later ones.
    sites : mapping of str to nn.Module or str
        For each site the submodule, or its dotted name, whose output is the value.
    logits : callable, optional
        ``logits(module, tokens)`` of shape (batch, time, vocab); ``module(tokens)`` if not given.
    unembedding : nn.Module, str or Tensor, optional
        The last linear layer or its dotted name, or a matrix (width, vocab).
    n_ctx : int, optional
        The longest sequence; no limit if not given.
    vocabulary : Vocabulary, optional
        What the tokens spell.

    Raises
    ------
    ValueError
        Naming the site: no part of the module, never reached, reached more than once in a call, not
        giving a tensor of numbers. Also if logits are not (batch, time, vocab), a weight is not finite,
        a later token changes what was said before it, or the vocabulary is too large.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3))
    >>> model = Attached(layers, {"embed": "0"}, unembedding="1")
    >>> with model.watched("embed") as seen:
    ...     model(Batch.from_tokens([[0, 1, 2, 0]])).shape, seen["embed"].shape
    (torch.Size([1, 3, 3]), torch.Size([1, 3, 4]))
    """

    def __init__(
        self,
        module: nn.Module,
        sites: Mapping[str, nn.Module | str],
        *,
        logits: ReadLogits | None = None,
        unembedding: nn.Module | str | Tensor | None = None,
        n_ctx: int | None = None,
        vocabulary: Vocabulary | None = None,
    ):
        super().__init__()
        self.module = module.eval()
        self.n_ctx = n_ctx
        self._read = logits or plain_logits
        self._parts = {_full_name(site): _part(module, part, site) for site, part in sites.items()}
        refuse_not_finite(module.named_parameters(), type(module).__name__)
        self.n_tokens = self._tried()
        self.vocabulary = fitting(vocabulary, self.n_tokens)
        self._unembedding = (_matrix(module, unembedding, self.n_tokens),)  # in a tuple: no second submodule
        refuse_looking_ahead(self, type(module).__name__, device=self._device())

    @property
    def sites(self) -> tuple[str, ...]:
        """Every readable value, in the order in which it is computed."""
        return tuple(self._parts)

    @property
    def site_parts(self) -> dict[str, str]:
        """Which part of the module each site is, by its dotted name."""
        names = {id(part): name for name, part in self.module.named_modules()}
        return {site: names[id(part)] for site, part in self._parts.items()}

    @property
    def unembedding(self) -> Float[Tensor, "width vocab"] | None:
        """Times the value before it, the logits (before a bias, if there is one); None if none was named."""
        (given,) = self._unembedding
        if given is None:
            return None
        return given.weight.T if isinstance(given, nn.Module) else given.to(self._device())

    def forward(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Logits.

        Raises
        ------
        ValueError
            If a token is out of range, the batch is longer than ``n_ctx``, or it has positions or an
            attention of its own, which such a module does not take.
        """
        time = batch.tokens.shape[1]
        refuse_out_of_range("tokens", batch.tokens, self.n_tokens, limit_name="n_tokens")
        if self.n_ctx is not None and time > self.n_ctx:
            raise ValueError(f"tokens has sequences of {time}; this module takes n_ctx={self.n_ctx}")
        for field, own in {"positions": not batch.in_order, "attend": batch.attend is not None}.items():
            if own:
                raise ValueError(
                    f"the batch has {field} of its own, which a module given by its sites does not take; "
                    f"leave {field} as Batch.from_tokens sets it"
                )
        return self._read(self.module, batch.tokens)

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities of every next token at every position, at least in float32."""
        logits = self(batch)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    @contextmanager
    def watched(self, *sites: str) -> Iterator[dict[str, Tensor]]:
        """While open, what passes through ``sites`` is kept, with its graph, under the name given.

        Raises
        ------
        ValueError
            If a site does not exist; the nearest ones are named.
        """
        seen: dict[str, Tensor] = {}
        parts = {site: self._parts[canonical_site(site, self.sites)] for site in sites}
        with ExitStack() as doors:
            for site, part in parts.items():
                keep = part.register_forward_hook(lambda _, __, gave, site=site: seen.update({site: _value(gave)}))
                doors.callback(keep.remove)
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
        part = self._parts[canonical_site(site, self.sites)]

        def replace(_: nn.Module, __: Any, gave: Any) -> Any:
            value = edit(_value(gave))
            if value is None or isinstance(gave, Tensor):
                return value
            return (
                gave._replace(**{gave._fields[0]: value})
                if hasattr(gave, "_fields")
                else type(gave)([value, *gave[1:]])
            )

        handle = part.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()

    def _device(self) -> torch.device | str:
        return next((weight.device for weight in self.module.parameters()), "cpu")

    def _tried(self) -> int:
        """How many tokens it knows, after every site was found to be reached once; sites in their order."""
        calls: dict[str, int] = dict.fromkeys(self._parts, 0)
        order: dict[str, None] = {}

        def note(gave: Any, site: str) -> None:
            calls[site] += 1
            order.setdefault(site)
            if not (isinstance(_value(gave), Tensor) and _value(gave).is_floating_point()):
                raise ValueError(f"site={site!r} gives {type(gave).__name__}; it must give a tensor of numbers")

        with ExitStack() as doors, torch.no_grad():
            for site, part in self._parts.items():
                doors.callback(part.register_forward_hook(lambda _, __, gave, site=site: note(gave, site)).remove)
            said = self._read(self.module, torch.zeros(1, 2, dtype=torch.long, device=self._device()))
        if not (isinstance(said, Tensor) and said.is_floating_point() and said.shape[:2] == (1, 2) and said.ndim == 3):
            shape = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
            raise ValueError(f"logits of one sequence of two tokens are {shape}; they must be (1, 2, n_tokens)")
        for site, n in calls.items():
            if n != 1:
                raise ValueError(f"site={site!r} is reached {n} times in a call; a site is reached once")
        self._parts = {site: self._parts[site] for site in order}
        return said.shape[2]


def _full_name(site: str) -> str:
    head, dot, last = site.rpartition(".")
    return site if last.startswith("hook_") else f"{head}{dot}hook_{last}"


def _part(module: nn.Module, part: nn.Module | str, site: str) -> nn.Module:
    if isinstance(part, str):
        try:
            return module.get_submodule(part)
        except AttributeError as error:
            raise ValueError(f"site={site!r} is given as {part!r}, which is no part of the module: {error}") from error
    if not any(part is other for other in module.modules()):
        raise ValueError(f"site={site!r} is given as a {type(part).__name__} that is no part of the module")
    return part


def _value(gave: Any) -> Any:
    return gave[0] if isinstance(gave, tuple | list) and gave else gave


def _matrix(module: nn.Module, given: nn.Module | str | Tensor | None, n_tokens: int) -> nn.Module | Tensor | None:
    """A matrix (width, vocab), or the module whose weight is its transpose."""
    if given is None:
        return None
    found = given if isinstance(given, Tensor) else _part(module, given, "unembedding")
    weight = found if isinstance(found, Tensor) else getattr(found, "weight", None)
    shape = None if weight is None else tuple(weight.shape if isinstance(found, Tensor) else weight.T.shape)
    if shape is None or len(shape) != 2 or shape[1] != n_tokens:
        raise ValueError(f"unembedding is {shape}; it must be (width, n_tokens={n_tokens})")
    return found
