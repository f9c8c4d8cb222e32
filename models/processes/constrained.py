"""Beliefs under the constraint of one attention layer: each token adds one displacement, and none is multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Complex128, Float

from nextlens.models.arguments import one_of
from nextlens.models.processes.filtering import alphabetic
from nextlens.models.processes.gauge import EXACT
from nextlens.models.processes.process import Process

FORMS = ("bayes", "rows")
#: Eigenvalues this close are one, and smaller ones are 0.
SAME_MODE = 1e-7
#: Eigenvectors nearer to dependent than this make no basis.
WORST_CONDITION = 1e8


def constrained_beliefs(
    process: Process, tokens: Any, *, form: str = "bayes"
) -> Float[np.ndarray, "sequence position state"]:
    """What one attention layer can know of the state: a sum over tokens, each forgotten at its own pace.

    With ``A = transition.sum(0)``, ``p`` its stationary law and ``v`` the :func:`displacements`::

        r_1(z_1 .. z_d) = p + sum_s v[z_s] A^(d - s)        as a recursion, r_d - p = (r_(d-1) - p) A + v[z_d]

    A filter multiplies what it has learned; here it is added, so ``r_1`` leaves the simplex where tokens
    agree. After one token the Bayes form is the belief of an observer that began from ``p``; the totals
    ``r_1 @ functional`` are 1.

    ``r_1[b, t]`` has read ``tokens[b, : t + 1]``, as ``process.beliefs`` has. It starts from the
    stationary law, whatever ``process.initial`` is.

    Parameters
    ----------
    process : Process
        Ordinary or generalized.
    tokens : integers of shape (sequence, position)
        Any words, also those the process cannot say: nothing is multiplied by their probability.
    form : {"bayes", "rows"}
        See :func:`displacements`.

    Raises
    ------
    ValueError
        If tokens are not integers in ``0 .. n_tokens - 1``; also as :func:`displacements`.

    References
    ----------
    Piotrowski, M., Riechers, P. M., Filan, D. and Shai, A. S. Constrained Belief Updates Explain Geometric
    Structures in Transformer Representations. ICML 2025, arXiv:2502.01954, equation 5.

    Examples
    --------
    >>> from nextlens.models.processes import mess3
    >>> constrained_beliefs(mess3(alpha=0.6, x=0.15), [[0, 0]]).round(4).tolist()
    [[[0.6, 0.2, 0.2], [0.7467, 0.1267, 0.1267]]]
    """
    read = alphabetic(tokens, process.n_tokens, process.name)
    v, chain = displacements(process, form=form), process.transition.sum(0)
    apart = np.empty((*read.shape, process.n_states))
    delta = np.zeros((len(read), process.n_states))
    for t, token in enumerate(read.T):
        delta = apart[:, t] = delta @ chain + v[token]
    return process.stationary + apart


def displacements(process: Process, *, form: str = "bayes") -> Float[np.ndarray, "token state"]:
    """How far one token moves the belief from the stationary law ``p``; ``v @ functional`` is 0.

    - ``"bayes"``: ``v[z] = p T[z] / (p T[z] w) - p``, with ``w`` the functional: what an observer learns
      from ``z`` alone.
    - ``"rows"``: ``v[z] = p R[z] - p``, where each row of ``R[z]`` is that of ``T[z]`` over its sum, as in
      the notebook of the authors. For Mess3 it is the Bayes form times one number.

    Raises
    ------
    ValueError
        If ``p`` never says a token; for ``"rows"``, if some state never says one (its row is 0/0), or the
        process is generalized, so that its rows are no laws.
    """
    if one_of("form", form, FORMS) == "rows":
        return _rows_form(process)
    joint = process.stationary @ process.transition
    said = joint @ process.functional
    never = np.flatnonzero(~(said > max(process.impossible, EXACT * said.max())))
    if len(never):
        raise ValueError(
            f"{process.name!r} never says token {never[0]} in the long run: what that token tells is 0/0; "
            "leave it out of the vocabulary"
        )
    return joint / said[:, None] - process.stationary


def _rows_form(process: Process) -> Float[np.ndarray, "token state"]:
    if process.is_generalized:
        raise ValueError(f"form='rows' divides by probabilities, and {process.name!r} has signed weights; use 'bayes'")
    mass = process.transition.sum(2)
    if not mass.all():
        token, state = np.argwhere(mass == 0)[0].tolist()
        raise ValueError(
            f"form='rows' is 0/0 for {process.name!r}: state {state} never says token {token}; use form='bayes'"
        )
    return process.stationary @ (process.transition / mass[:, :, None]) - process.stationary


def decay_modes(process: Process) -> Complex128[np.ndarray, " mode"]:
    """The distinct factors by which displacements shrink in one step, largest modulus first.

    Eigenvalues of ``transition.sum(0)`` along which some displacement lies, so that ``v[z] A^n`` is a sum
    of their n-th powers. The stationary law and eigenvalues 0, gone after one step, are left out. Mess3 has
    one, ``1 - 3 x``, which occurs twice.

    Raises
    ------
    ValueError
        If the chain has too few eigenvectors: then displacements do not decay by powers alone.
    """
    chain = process.transition.sum(0)
    values, vectors = np.linalg.eig(chain)
    if np.linalg.cond(vectors) > WORST_CONDITION:
        raise ValueError(f"the chain of {process.name!r} is defective: it has too few eigenvectors to tell modes apart")
    share = np.abs(displacements(process) @ vectors).max(0) * np.linalg.norm(np.linalg.inv(vectors), axis=1)
    values = values[(share > SAME_MODE) & (np.abs(values) > SAME_MODE)].astype(np.complex128)
    values = values[np.lexsort((-values.imag, -values.real, -np.abs(values).round(9)))]
    apart = np.abs(values[:, None] - values) > SAME_MODE
    return values[[apart[k, :k].all() for k in range(len(values))]]


def attention_decay(process: Process) -> float:
    """By how much a token must count less for each step it lies behind: the largest decay mode, ``zeta``.

    ``A[d + m, s] = zeta^m A[d, s]`` is then what attention must do (arXiv:2502.01954); 0 where nothing is
    left of a token after one step.

    Raises
    ------
    ValueError
        If that mode is complex; also as :func:`decay_modes`.

    Examples
    --------
    >>> from nextlens.models.processes import mess3
    >>> [round(attention_decay(mess3(0.6, x)), 6) for x in (0.15, 1 / 3, 0.5)]
    [0.55, 0.0, -0.5]
    """
    modes = decay_modes(process)
    if not len(modes):
        return 0.0
    if abs(modes[0].imag) > SAME_MODE:
        raise ValueError(f"displacements of {process.name!r} turn as they decay, by {modes[0]:.6g}: no one real factor")
    return float(modes[0].real)


def heads_needed(process: Process) -> int:
    """How many patterns of non-negative weights, with a sign and direction for each, make up ``r_1`` exactly.

    The modes span K functions of distance (one for a real mode, two for a complex pair). Non-negative
    functions must span them: K do if a positive mode decays slowest, since enough of it makes the others
    non-negative; otherwise every function along the slowest changes sign for ever, and it takes K + 1. One for
    Mess3 with ``x < 1/3``, two with ``x > 1/3``.

    Necessary for weights that depend on distance alone; that softmax can make them is another question.

    Raises
    ------
    ValueError
        As :func:`decay_modes`.

    Examples
    --------
    >>> from nextlens.models.processes import mess3
    >>> [heads_needed(mess3(0.6, x)) for x in (0.15, 1 / 3, 0.5)]
    [1, 0, 2]
    """
    modes = decay_modes(process)
    if not len(modes):
        return 0
    slowest = modes[np.abs(modes) > np.abs(modes[0]) - SAME_MODE]
    positive = (slowest.real > 0) & (np.abs(slowest.imag) <= SAME_MODE)
    return len(modes) + int(not positive.any())


def value_coefficients(
    pattern: Float[np.ndarray, "position looked_at"], decay: float
) -> Float[np.ndarray, " looked_at_but_last"]:
    """What the OV vector of position m must be along ``v[z]``, for one head to make ``r_1``: ``zeta / A[m + 1, m]``.

    Parameters
    ----------
    pattern : array of shape (position, looked_at)
        Attention ``A[d, s]``, mean over words; rows are queries.
    decay : float
        ``zeta``.

    Raises
    ------
    ValueError
        If the pattern is not square with two positions or more, or some ``A[m + 1, m]`` is not above 0.
    """
    return decay / _next_weights(pattern)


def embedding_coefficients(
    pattern: Float[np.ndarray, "position looked_at"], decay: float
) -> Float[np.ndarray, " looked_at_but_last"]:
    """What the embedding at position m must be along ``v[z]``: ``1 - zeta A[m, m] / A[m + 1, m]``.

    The token has been added by its own OV vector already, by ``zeta A[m, m] / A[m + 1, m]``. Softmax gives the
    first position all of its own weight, so there it is ``1 - zeta / A[1, 0]``: negative, the wrong sign,
    wherever the second position looks back with less than ``zeta``.

    Parameters and refusals are those of :func:`value_coefficients`.
    """
    following = _next_weights(pattern)
    return 1 - decay * np.diag(pattern)[:-1] / following


def _next_weights(pattern: Float[np.ndarray, "position looked_at"]) -> Float[np.ndarray, " looked_at_but_last"]:
    if pattern.shape[0] != pattern.shape[1] or len(pattern) < 2:
        raise ValueError(f"pattern has shape {pattern.shape}; it must be square, with at least 2 positions")
    following = np.diag(pattern, -1)
    if not following.min() > 0:
        m = int((~(following > 0)).argmax())
        raise ValueError(f"pattern[{m + 1}, {m}] is {following[m]:.6g}; it must be above 0")
    return following
