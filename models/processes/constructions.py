"""Processes made of processes: chains, mixtures, noise, leaks, other vocabularies, shorter memories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import block_diag

from nextlens.models.arguments import at_least, between
from nextlens.models.processes.gauge import EXACT, checked_beliefs
from nextlens.models.processes.mixed_states import every_word
from nextlens.models.processes.process import Process

#: No construction makes a tensor of more numbers than this (a quarter of a gigabyte).
LARGEST_TENSOR = 2**25


def begun_from(process: Process, initial: Float[np.ndarray, " state"]) -> Process:
    """The same process with another belief before anything is read."""
    return _same_states(process, process.transition, process.name, process.parameters, initial)


def chain(parent: Process, variants: Sequence[Process], initial: Float[np.ndarray, " state"] | None = None) -> Process:
    """Two processes side by side, where what the parent says chooses how the child moves.

    ``T[(x, y)] = kron(parent[x], variants[x][y])``: an exact process over pairs. The pair ``(x, y)`` is
    token ``x * n_child_tokens + y``, and states are numbered alike, the parent's most significant. If
    all variants begin alike, so does the chain, from the product; otherwise from its stationary law.

    Parameters
    ----------
    parent : Process
    variants : sequence of Process
        For each of the parent's tokens the child's process; one may stand for several.
    initial : array of shape (parent states * child states,), optional

    Raises
    ------
    ValueError
        If there is not one variant for each token of the parent, or variants differ in tokens, in
        states, or in their functional.
    """
    if len(variants) != parent.n_tokens:
        raise ValueError(
            f"variants holds {len(variants)} processes; the parent {parent.name!r} says {parent.n_tokens} tokens, "
            "and each must choose one"
        )
    first = variants[0]
    for index, variant in enumerate(variants):
        if variant.transition.shape != first.transition.shape:
            raise ValueError(
                f"variants[{index}] has shape {variant.transition.shape}; variants[0] has "
                f"{first.transition.shape}, and they must agree: (token, state, state)"
            )
        if not np.allclose(variant.functional, first.functional, rtol=0, atol=EXACT):
            raise ValueError(f"variants[{index}] has another functional than variants[0]; their beliefs do not mix")
    alike = all(np.allclose(variant.initial, first.initial, rtol=0, atol=EXACT) for variant in variants)
    if initial is None and alike:
        initial = np.kron(parent.initial, first.initial)
    pairs = [
        np.kron(said, moved)
        for said, variant in zip(parent.transition, variants, strict=True)
        for moved in variant.transition
    ]
    functional = np.kron(parent.functional, first.functional)
    return Process(np.stack(pairs), name=f"{parent.name} chain", initial=initial, functional=functional)


def mixture(
    processes: Sequence[Process],
    weights: Sequence[float | int] | Float[np.ndarray, " component"],
    vocabularies: Sequence[Sequence[int]] | None = None,
) -> Process:
    """One of several processes, drawn once and kept for ever: a non-ergodic process.

    States are those of the components, one block after another, and the initial belief is each
    component's own times its weight.

    Parameters
    ----------
    processes : sequence of Process
    weights : sequence of float
        Their probabilities; they sum to 1.
    vocabularies : sequence of sequences of int, optional
        ``vocabularies[k][x]`` is the token of the mixture that stands for token ``x`` of component
        ``k``. None means that all components say the same tokens.

    Raises
    ------
    ValueError
        If the weights are not a law over the components, alphabets differ and no vocabularies are
        given, or a vocabulary does not have one number, 0 or more, for each token.

    See Also
    --------
    component_posterior : what a belief says of which component it is.
    component_beliefs : what it says within each.

    Examples
    --------
    >>> from nextlens.models.processes import coin
    >>> mixture([coin(0.2), coin(0.9)], [0.5, 0.5]).opening.round(2).tolist()
    [0.55, 0.45]
    """
    if len(processes) == 0 or len(weights) != len(processes):
        raise ValueError(f"weights holds {len(weights)} numbers for {len(processes)} processes; each needs one")
    shares = checked_beliefs("weights", weights, np.ones(len(processes)), signed=False)
    alphabets = [process.n_tokens for process in processes]
    if vocabularies is None:
        if len(set(alphabets)) > 1:
            raise ValueError(
                f"processes say {alphabets} tokens; with unequal alphabets give vocabularies=, for each process "
                "the mixture's token that each of its own stands for"
            )
        vocabularies = [range(n) for n in alphabets]
    if len(vocabularies) != len(processes):
        raise ValueError(f"vocabularies holds {len(vocabularies)} for {len(processes)} processes; each needs one")
    maps = [
        _checked_labels(f"vocabularies[{k}]", each, n)
        for k, (each, n) in enumerate(zip(vocabularies, alphabets, strict=True))
    ]
    n_tokens = max(int(labels.max()) for labels in maps) + 1
    blocks = [_said_as(process.transition, labels, n_tokens) for process, labels in zip(processes, maps, strict=True)]
    return Process(
        np.stack([block_diag(*(block[x] for block in blocks)) for x in range(n_tokens)]),
        name="mixture",
        initial=np.concatenate([share * process.initial for share, process in zip(shares, processes, strict=True)]),
        functional=np.concatenate([process.functional for process in processes]),
    )


def component_posterior(
    beliefs: Float[np.ndarray, "*any state"], processes: Sequence[Process]
) -> Float[np.ndarray, "*any component"]:
    """The probability of each component, by a belief of their ``mixture``: ``block @ functional``."""
    blocks = _blocks(beliefs, processes)
    said = [block @ process.functional for block, process in zip(blocks, processes, strict=True)]
    return np.stack(said, axis=-1)


def component_beliefs(
    beliefs: Float[np.ndarray, "*any state"], processes: Sequence[Process]
) -> list[Float[np.ndarray, "*any own_state"]]:
    """For each component the belief that one would hold who knew it to be the one.

    Each is a block of a belief of their ``mixture``, scaled to total probability 1; where the component
    is ruled out there is nothing to scale, and it is 0 everywhere.
    """
    posterior = component_posterior(beliefs, processes)
    shares = np.moveaxis(np.where(posterior > 0, posterior, np.inf), -1, 0)
    return [block / share[..., None] for block, share in zip(_blocks(beliefs, processes), shares, strict=True)]


def _blocks(
    beliefs: Float[np.ndarray, "*any state"], processes: Sequence[Process]
) -> list[Float[np.ndarray, "*any own_state"]]:
    ends = np.cumsum([process.n_states for process in processes])
    if beliefs.shape[-1] != ends[-1]:
        raise ValueError(f"beliefs have {beliefs.shape[-1]} states; these processes have {ends[-1]} together")
    return np.split(beliefs, ends[:-1], axis=-1)


def noisy_channel(process: Process, epsilon: float | int) -> Process:
    """What is heard where each token is, with probability ``epsilon``, replaced by any at random.

    ``T'[x] = (1 - epsilon) T[x] + (epsilon / n_tokens) sum_z T[z]``, exactly: the hidden state moves by
    what was said, of which one only heard a trace. Blurring the next-token law and reading on as if
    nothing had happened is not the same, and is no process.

    Parameters
    ----------
    process : Process
    epsilon : float in [0, 1]
        The replacement may be the token itself.
    """
    between("epsilon", epsilon, 0, 1)
    transition = (1 - epsilon) * process.transition + epsilon * process.transition.mean(axis=0)
    return _same_states(process, transition, f"noisy {process.name}", {"epsilon": epsilon}, process.initial)


def leak(process: Process, epsilon: float | int, law: Float[np.ndarray, " state"] | None = None) -> Process:
    """With probability ``epsilon``, any token is said and the state drawn anew, whatever it was.

    ``T'[x] = (1 - epsilon) T[x] + epsilon outer(functional, law) / n_tokens``. Above 0, the stationary
    law is unique.

    Parameters
    ----------
    process : Process
        If it begins from its stationary law, so does the result, from its own.
    epsilon : float in [0, 1]
    law : array of shape (state,), optional
        Of the state drawn anew. None means uniform, which a generalized process cannot be.

    Raises
    ------
    ValueError
        If ``epsilon`` is outside [0, 1], or ``law`` is none, or is None for a generalized process.
    """
    between("epsilon", epsilon, 0, 1)
    if law is None and process.is_generalized:
        raise ValueError(f"law=None is uniform, which means nothing for the generalized {process.name!r}; give law=")
    if law is None:
        law = np.full(process.n_states, 1 / process.n_states)
    law = checked_beliefs("law", law, process.functional, signed=process.is_generalized)
    anew = np.outer(process.functional, law) / process.n_tokens
    transition = (1 - epsilon) * process.transition + epsilon * anew
    is_stationary = np.allclose(process.initial, process.stationary, rtol=0, atol=EXACT)
    initial = None if is_stationary and epsilon > 0 else process.initial
    return _same_states(process, transition, f"leaky {process.name}", {"epsilon": epsilon}, initial)


def with_beginning_token(process: Process) -> Process:
    """One more token, said first and never again; what follows it has the law of ``process``.

    The new token and the new state, in which it is said, are the last, so that all others keep their
    numbers: after it, beliefs are those of ``process`` with a 0 behind.
    """
    n_tokens, n_states = process.n_tokens, process.n_states
    transition = np.zeros((n_tokens + 1, n_states + 1, n_states + 1))
    transition[:-1, :-1, :-1] = process.transition
    transition[-1, -1, :-1] = process.initial
    return Process(
        transition,
        name=f"{process.name} with beginning token",
        initial=np.eye(n_states + 1)[-1],
        functional=np.append(process.functional, 1.0),
    )


def relabelled(process: Process, labels: Sequence[int] | Int[np.ndarray, " token"]) -> Process:
    """The same, saying ``labels[x]`` for ``x``; tokens of one label become one, their ``T`` summed.

    Parameters
    ----------
    process : Process
    labels : sequence of int
        One for each token, 0 or more. A number that is left out is a token never said.

    Raises
    ------
    ValueError
        If there is not one label for each token, or one is no integer or below 0.
    """
    checked = _checked_labels("labels", labels, process.n_tokens)
    transition = _said_as(process.transition, checked, int(checked.max()) + 1)
    return _same_states(process, transition, f"relabelled {process.name}", {}, process.initial)


def markov(process: Process, k: int) -> Process:
    """The process that remembers ``k`` tokens and says each next one with the law ``process`` has then.

    States are the words of ``k`` tokens that can be said, in their order, and begin with their
    probability; ``T[x, u, u_2 .. u_k x] = p(u x) / p(u)``. Words of up to ``k + 1`` tokens keep their
    probability, and the entropy rate is ``h_(k+1)`` of the stationary ``process``.

    Parameters
    ----------
    process : Process
        Taken as begun from its stationary law.
    k : int
        At least 0, which makes tokens independent.

    Raises
    ------
    ValueError
        If ``k`` is below 0, or there are too many words of ``k`` tokens.
    """
    at_least("k", k, 0)
    words, probability = every_word(begun_from(process, process.stationary), k + 1)
    n = process.n_tokens
    code = words @ n ** np.arange(k, -1, -1)
    before, after = code // n, code % n**k
    states = np.unique(np.concatenate([before, after]))
    if n * len(states) ** 2 > LARGEST_TENSOR:
        raise ValueError(f"k={k} makes {len(states)} words of {process.name!r} states, too many to hold")
    source = np.searchsorted(states, before)
    share = np.bincount(source, weights=probability, minlength=len(states))
    transition = np.zeros((n, len(states), len(states)))
    transition[words[:, -1], source, np.searchsorted(states, after)] = probability / share[source]
    return Process(transition, name=f"order-{k} {process.name}", parameters={"k": k}, initial=share / share.sum())


def _same_states(
    process: Process,
    transition: Float[np.ndarray, "token state state"],
    name: str,
    parameters: Mapping[str, float | int],
    initial: Float[np.ndarray, " state"] | None,
) -> Process:
    return Process(transition, name=name, parameters=parameters, initial=initial, functional=process.functional)


def _checked_labels(
    name: str, labels: Sequence[int] | Int[np.ndarray, " token"], n_tokens: int
) -> Int[np.ndarray, " token"]:
    found = np.asarray(labels)
    if found.shape != (n_tokens,):
        raise ValueError(f"{name} has shape {found.shape}; it must hold one number for each of {n_tokens} tokens")
    if not np.issubdtype(found.dtype, np.integer) or found.min() < 0:
        raise ValueError(f"{name}={found.tolist()} must be integers, 0 or more")
    return found


def _said_as(
    transition: Float[np.ndarray, "token state state"], labels: Int[np.ndarray, " token"], n_tokens: int
) -> Float[np.ndarray, "label state state"]:
    said = np.zeros((n_tokens, *transition.shape[1:]))
    np.add.at(said, labels, transition)
    return said
