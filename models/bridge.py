"""The one adapter that knows TransformerLens's ``TransformerBridge``, and the exact way there and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import boot

from nextlens.models.arguments import one_of
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.hooked import Edit, canonical_site
from nextlens.models.transformer_config import TransformerConfig
from nextlens.models.vocabulary import Vocabulary, fitting

NORMALISATIONS = {"LayerNorm": "LN", "RMSNorm": "RMS", "none": None}
POSITIONS = {"learned": "standard", "rotary": "rotary"}

#: Ours -> the bridge's. The bridge's own ``hook_normalized`` is the value before gain and bias.
RENAMED = {"hook_normalized": "hook_out"}

BLOCK_SITES = (
    "hook_resid_pre",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_mixer_out",
    "hook_resid_post",
)


class Bridged(nn.Module):
    """A ``TransformerBridge`` as a ``Hooked`` kernel; the bridge itself stays at ``.bridge``.

    Site names are those of :class:`~nextlens.models.transformer.Transformer`, and mean the same values:
    ``ln_final.hook_normalized`` is the value after gain and bias, which times :attr:`unembedding` is the
    logits (if the architecture adds a bias to them, scales or caps them, before that). Where keys and
    values are shared by groups of heads, ``attn.hook_k`` and ``attn.hook_v`` have the fewer heads.
    Attention scores are not offered: a native bridge's hook of that name carries the pattern, and
    editing it does nothing.

    Parameters
    ----------
    bridge : transformer_lens.model_bridge.TransformerBridge
    vocabulary : Vocabulary, optional
        What the model's tokens spell, kept at ``.vocabulary``.

    Raises
    ------
    ValueError
        If the vocabulary holds more tokens than the bridge.

    Examples
    --------
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> model = Bridged(Transformer(TransformerConfig(n_tokens=3, n_ctx=8)).to_bridge())
    >>> model(Batch.from_tokens([[0, 1, 2, 0]])).shape
    torch.Size([1, 3, 3])
    """

    def __init__(self, bridge: TransformerBridge, vocabulary: Vocabulary | None = None):
        super().__init__()
        self.bridge = bridge
        self.vocabulary = fitting(vocabulary, self.n_tokens)

    @property
    def n_tokens(self) -> int:
        return self.bridge.cfg.d_vocab

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Every readable value, in the order in which it is computed: what was reached when two tokens were read."""
        blocks = (f"blocks.{i}.{site}" for i in range(self.bridge.cfg.n_layers) for site in BLOCK_SITES)
        wanted = ("hook_embed", "hook_pos_embed", *blocks, "ln_final.hook_normalized")
        reached: dict[str, None] = {}

        def note(value: Tensor, *, hook: Any, site: str) -> None:
            reached.setdefault(site)

        there = [(_hook_name(site), partial(note, site=site)) for site in wanted if self._has(site)]
        with torch.no_grad(), self.bridge.hooks(fwd_hooks=there):
            self._logits(self._two_tokens())
        return tuple(reached)

    @property
    def unembedding(self) -> Float[Tensor, "width vocab"]:
        """Times the value at ``ln_final.hook_normalized``, the logits."""
        return self.bridge.W_U

    def forward(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Logits.

        Raises
        ------
        ValueError
            If a token or a position is out of range, the batch is longer than the context, ``attend``
            asks a causal bridge to look ahead (which it would silently not do), or the architecture
            takes no notice of the batch's own positions or attention.
        """
        config = self.bridge.cfg
        refuse_out_of_range("tokens", batch.tokens, config.d_vocab, limit_name="n_tokens")
        if not getattr(config, "is_stateful", False):
            time = batch.tokens.shape[1]
            if time > config.n_ctx:
                raise ValueError(f"tokens has sequences of {time}; this bridge takes n_ctx={config.n_ctx}")
            refuse_out_of_range("positions", batch.positions, config.n_ctx, limit_name="n_ctx")
        asked = {}
        if not batch.in_order:
            asked["position_ids"] = batch.positions.contiguous()
        if batch.attend is not None:
            if getattr(config, "attention_dir", "causal") == "causal" and batch.attend.triu(1).any():
                raise ValueError("attend lets a position look ahead; this bridge is causal and would ignore it")
            asked["attention_mask"] = self._mask(batch.attend)
        for name in set(asked) - self._honoured:
            field = {"position_ids": "positions", "attention_mask": "attend"}[name]
            raise ValueError(
                f"the batch has {field} of its own, of which {config.architecture} takes no notice; "
                f"leave {field} as Batch.from_tokens sets it"
            )
        return self._logits(batch.tokens, **asked)

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities of every next token at every position, at least in float32."""
        logits = self(batch)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    @contextmanager
    def watched(self, *sites: str) -> Iterator[dict[str, Tensor]]:
        """While open, what passes through ``sites`` is kept, with its graph, under the name given."""
        seen: dict[str, Tensor] = {}

        def keep(value: Tensor, *, hook: Any, site: str) -> None:
            seen[site] = value

        _ = self._honoured  # tried before a hook is there to see the trial
        hooks = [(_hook_name(canonical_site(site, self.sites)), partial(keep, site=site)) for site in sites]
        with self.bridge.hooks(fwd_hooks=hooks):
            yield seen

    @contextmanager
    def edited(self, site: str, edit: Edit) -> Iterator[None]:
        """While open, what ``edit(value)`` returns at ``site``, unless None, replaces the value.

        Raises
        ------
        ValueError
            Where an edit would be lost. At ``hook_resid_mid``: in a bridge that name is the MLP's input
            alone, and an edit there never enters the residual stream; edit ``hook_attn_out`` instead. At
            ``attn.hook_pattern`` of an architecture (OPT, GPT-J, GPT-Neo) whose bridge shows the pattern
            and computes with another copy; edit ``attn.hook_z`` instead.
        """
        name = canonical_site(site, self.sites)
        honoured = self._honoured  # tried before a hook is there to see the trial
        for lost, instead in {"hook_resid_mid": "hook_attn_out", "hook_pattern": "hook_z"}.items():
            if name.endswith(lost) and lost not in honoured:
                instead = name.replace(lost, instead)
                raise ValueError(f"site={site!r} cannot be edited through a bridge; edit {instead!r} instead")
        with self.bridge.hooks(fwd_hooks=[(_hook_name(name), lambda value, hook: edit(value))]):
            yield

    @cached_property
    def _honoured(self) -> frozenset[str]:
        """Which wishes change what is said as they should: found by trying, on two tokens.

        A second token two places on says something else than one place on, unless positions are ignored;
        one that may not look at the first says the same whatever the first is; and half a pattern says
        something else than the pattern.
        """
        tokens, swapped = self._two_tokens(), self._two_tokens().flip(1)[:, :1].expand(1, 2)
        plain, found = self._tried(tokens), set()
        far = self._tried(tokens, position_ids=torch.tensor([[0, 2]], device=tokens.device))
        if plain is not None and far is not None and not torch.equal(plain, far):
            found.add("position_ids")
        alone = self._mask(torch.eye(2, dtype=torch.bool, device=tokens.device)[None])
        one, other = self._tried(tokens, attention_mask=alone), self._tried(swapped, attention_mask=alone)
        if one is not None and other is not None and torch.equal(one, other) and not torch.equal(one, plain):
            found.add("attention_mask")
        for site in [site for site in self.sites if site.endswith("hook_pattern")][:1]:
            halved = self.bridge.hooks(fwd_hooks=[(_hook_name(site), lambda value, hook: value / 2)])
            with warnings.catch_warnings(action="ignore"), halved:
                if not torch.equal(self._tried(tokens), plain):
                    found.add("hook_pattern")
        return frozenset(found)

    @torch.no_grad()
    def _tried(self, tokens: Tensor, **asked: Tensor) -> Tensor | None:
        """What is said after the second token; None if that cannot be asked."""
        try:
            return self._logits(tokens, **asked)[0, 1]
        except (TypeError, ValueError, RuntimeError, IndexError):
            return None

    def _two_tokens(self) -> Tensor:
        return torch.tensor([[0, self.n_tokens - 1]], device=next(self.bridge.parameters()).device)

    def _mask(self, attend: Tensor) -> Tensor:
        """``attend`` (True: may look) with the polarity of this bridge, for every head."""
        return (attend if self.bridge.adapter.bool_4d_mask_is_keep else ~attend)[:, None]

    def _logits(self, tokens: Tensor, **asked: Tensor) -> Tensor:
        return self.bridge(tokens, return_type="logits", **asked)

    def _has(self, site: str) -> bool:
        return _hook_name(site) in self.bridge.hook_dict


def _hook_name(site: str) -> str:
    head, dot, last = site.rpartition(".")
    return f"{head}{dot}{RENAMED.get(last, last)}"


def native_bridge(config: TransformerConfig, state: Mapping[str, Tensor]) -> TransformerBridge:
    """A native ``TransformerBridge`` with the weights of a ``Transformer``: equal logits.

    Raises
    ------
    ValueError
        If the bridge has no such architecture: positions other than learned or rotary, or a second
        normalisation.
    """
    one_of("positions", config.positions, tuple(POSITIONS))
    if config.post_normalisation:
        raise ValueError("post_normalisation=True has no counterpart in a TransformerBridge")
    if config.n_layers == 0:
        raise ValueError("n_layers=0 has no counterpart in a TransformerBridge")
    bridge = boot(
        TransformerBridgeConfig(
            d_model=config.d_model,
            d_head=config.d_head,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_ctx=config.n_ctx,
            d_vocab=config.n_tokens,
            d_mlp=config.d_mlp or 4 * config.d_model,
            attn_only=config.d_mlp == 0,
            act_fn=config.activation,
            gated_mlp=config.gated,
            normalization_type=NORMALISATIONS[config.normalisation],
            positional_embedding_type=POSITIONS[config.positions],
            rotary_base=config.rotary_base,
            eps=config.epsilon,
            seed=config.seed,
        )
    )
    reference = next(iter(state.values()))
    bridge.to(device=reference.device, dtype=reference.dtype, print_details=False)
    renamed = {_bridge_key(name): _to_bridge_layout(name, value) for name, value in state.items()}
    unknown = set(renamed) - set(bridge.state_dict())
    if unknown:
        raise ValueError(f"the bridge has no weights named {sorted(unknown)}")
    bridge.load_state_dict({**bridge.state_dict(), **renamed})
    return bridge


def native_state(bridge: TransformerBridge) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """The config and weights of a native ``TransformerBridge``, as a ``Transformer`` names them.

    Raises
    ------
    ValueError
        If the bridge is of another architecture, or uses what a ``Transformer`` lacks.
    """
    theirs = bridge.cfg
    if theirs.architecture != "TransformerLensNative":
        raise ValueError(
            f"bridge has architecture {theirs.architecture!r}; only native bridges convert to a Transformer"
        )
    normalisation = {v: k for k, v in NORMALISATIONS.items()}
    positions = {v: k for k, v in POSITIONS.items()}
    grouped = theirs.n_key_value_heads not in (None, theirs.n_heads)
    capped = theirs.attn_scores_soft_cap > 0 or theirs.output_logits_soft_cap > 0
    if grouped or capped or theirs.attention_dir != "causal" or theirs.rotary_dim not in (None, 0, theirs.d_head):
        raise ValueError(
            "bridge uses grouped keys, a soft cap, part-rotary or bidirectional attention; a Transformer has none"
        )
    config = TransformerConfig(
        n_tokens=theirs.d_vocab,
        n_layers=theirs.n_layers,
        n_heads=theirs.n_heads,
        d_model=theirs.d_model,
        d_head=theirs.d_head,
        d_mlp=0 if theirs.attn_only else theirs.d_mlp,
        n_ctx=theirs.n_ctx,
        activation=theirs.act_fn,
        gated=bool(theirs.gated_mlp),
        normalisation=normalisation[one_of("normalization_type", theirs.normalization_type, tuple(normalisation))],
        positions=positions[theirs.positional_embedding_type],
        rotary_base=float(theirs.rotary_base),
        epsilon=theirs.eps,
        seed=theirs.seed or 0,
    )
    state = {}
    for key, value in bridge.state_dict().items():
        if key == "unembed.bias":
            if value.any():
                raise ValueError("bridge has an unembedding bias; a Transformer has none")
            continue
        name = _transformer_key(key)
        state[name] = _from_bridge_layout(name, value, config).detach().clone().contiguous()
    return config, state


_SHORT = {"q": "W_Q", "k": "W_K", "v": "W_V", "o": "W_O", "in": "W_in", "out": "W_out", "gate": "W_gate"}
_PLAIN = {"embed.W_E": "embed.weight", "pos_embed.W_pos": "pos_embed.weight", "unembed.W_U": "unembed.weight"}


def _bridge_key(name: str) -> str:
    """``blocks.0.attn.W_Q`` -> ``blocks.0.attn.q.weight``; ``ln_final.w`` -> ``ln_final.weight``."""
    if name in _PLAIN:
        return _PLAIN[name]
    head, _, last = name.rpartition(".")
    if last in ("w", "b"):
        return f"{head}.{'weight' if last == 'w' else 'bias'}"
    kind, _, part = last.partition("_")
    return f"{head}.{part.lower()}.{'weight' if kind == 'W' else 'bias'}"


def _transformer_key(key: str) -> str:
    plain = {v: k for k, v in _PLAIN.items()}
    if key in plain:
        return plain[key]
    head, _, kind = key.rpartition(".")
    owner, _, part = head.rpartition(".")
    if part in _SHORT and owner.endswith(("attn", "mlp")):
        return f"{owner}.{'W' if kind == 'weight' else 'b'}{_SHORT[part][1:]}"
    return f"{head}.{'w' if kind == 'weight' else 'b'}"


def _to_bridge_layout(name: str, value: Tensor) -> Tensor:
    last = name.rpartition(".")[2]
    if last in ("W_Q", "W_K", "W_V"):
        return value.transpose(1, 2).flatten(0, 1)
    if last == "W_O":
        return value.flatten(0, 1).T
    if last in ("W_in", "W_out", "W_gate", "W_U"):
        return value.T
    return value.flatten() if last in ("b_Q", "b_K", "b_V") else value


def _from_bridge_layout(name: str, value: Tensor, config: TransformerConfig) -> Tensor:
    last, heads, head = name.rpartition(".")[2], config.n_heads, config.d_head
    if last in ("W_Q", "W_K", "W_V"):
        return value.unflatten(0, (heads, head)).transpose(1, 2)
    if last == "W_O":
        return value.T.unflatten(0, (heads, head))
    if last in ("W_in", "W_out", "W_gate", "W_U"):
        return value.T
    return value.unflatten(0, (heads, head)) if last in ("b_Q", "b_K", "b_V") else value
