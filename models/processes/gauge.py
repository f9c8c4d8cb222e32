"""What a labelled transition tensor must satisfy, and the two vectors that give it probabilities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from nextlens.models.processes.chain import fixed_vectors, long_run_law, recurrent_classes

#: Rounding allowed in sums that must be 1.
EXACT = 1e-9
#: A probability this small, or this far below 0, is rounding: in signed tensors zeros are sums.
ROUNDING = 1e-12
#: How many words of a signed tensor are checked to have no negative probability.
CHECKED_WORDS = 100_000


def checked_transition(name: str, transition: object) -> Float[np.ndarray, "token state state"]:
    """A float64 copy of ``transition``, or a refusal that says where it fails.

    Raises
    ------
    ValueError
        If the shape is not (token, state, state), or an entry is not finite.
    """
    tensor = np.array(transition, dtype=np.float64)
    if tensor.ndim != 3 or tensor.shape[1] != tensor.shape[2] or 0 in tensor.shape:
        raise ValueError(
            f"transition of {name!r} has shape {tensor.shape}; it must be (token, state, next state) "
            "with as many next states as states, and at least one of each"
        )
    if not np.isfinite(tensor).all():
        x, s, r = np.argwhere(~np.isfinite(tensor))[0].tolist()
        raise ValueError(f"transition[{x}, {s}, {r}] of {name!r} is {tensor[x, s, r]}; it must be finite")
    return tensor if is_signed(tensor) else tensor.clip(0)


def is_signed(transition: Float[np.ndarray, "token state state"]) -> bool:
    """Whether some weight is negative, beyond rounding."""
    return bool((transition < -ROUNDING).any())


def is_generalized(transition: Float[np.ndarray, "token state state"], functional: object) -> bool:
    """Whether the states are coordinates only: some weight is negative, or the functional is not ones.

    A functional of None is yet to be found.
    """
    return is_signed(transition) or (
        functional is not None and not np.array_equal(functional, np.ones(transition.shape[1]))
    )


def checked_beliefs(
    name: str,
    beliefs: object,
    functional: Float[np.ndarray, " state"],
    *,
    signed: bool,
    n_sequences: int | None = None,
) -> Float[np.ndarray, "*sequence state"]:
    """A float64 copy of one belief, or of one for each of ``n_sequences``; or a refusal.

    Raises
    ------
    ValueError
        If the shape is another, a total ``belief @ functional`` is not 1, or, unless ``signed``, a
        probability is negative.
    """
    found = np.array(beliefs, dtype=np.float64)
    each = (n_sequences, len(functional))
    if found.shape not in {each[1:], each}:
        or_each = "" if n_sequences is None else f" or {each}"
        raise ValueError(f"{name} has shape {found.shape}; it must be {each[1:]}{or_each}")
    total = np.atleast_1d(found @ functional)
    wrong = ~(np.abs(total - 1) <= EXACT)
    if wrong.any():
        raise ValueError(f"{name} has total probability {total[wrong][0]:.10g}; it must be 1")
    if not signed and found.min(initial=0) < -ROUNDING:
        raise ValueError(f"{name} holds the probability {found.min():.6g}; it must be at least 0")
    return found


def stochastic_gauge(
    name: str, chain: Float[np.ndarray, "state state"], initial: object
) -> tuple[Float[np.ndarray, " state"], Float[np.ndarray, " state"]]:
    """Functional (ones) and long-run law of a hidden Markov process.

    Raises
    ------
    ValueError
        If some state's probabilities do not sum to 1, or the chain has more than one recurrent class
        and ``initial`` is None.
    """
    ones, mass = np.ones(len(chain)), chain.sum(axis=1)
    worst = int(np.abs(mass - 1).argmax())
    if abs(mass[worst] - 1) > EXACT:
        raise ValueError(
            f"transition of {name!r} gives state {worst} total probability {mass[worst]:.10g}; "
            f"transition[:, {worst}, :] must sum to 1 (axes are token, state, next state)"
        )
    if initial is not None:
        return ones, long_run_law(chain, checked_beliefs("initial", initial, ones, signed=False))
    recurrent = recurrent_classes(chain)
    count = int(recurrent.max()) + 1
    if count > 1:
        blocks = [np.flatnonzero(recurrent == block).tolist() for block in range(min(count, 8))]
        listed = " and ".join(f"{{{', '.join(map(str, block))}}}" for block in blocks)
        more = f" and {count - 8} more" if count > 8 else ""
        raise ValueError(
            f"transition of {name!r} is reducible: it has {count} sets of states that are never left, "
            f"{listed}{more}; say where it starts with initial= (for a mixture, the weight of each set times "
            "its stationary law), or give one set at a time"
        )
    return ones, long_run_law(chain, ones / len(chain))


def generalized_gauge(
    name: str, chain: Float[np.ndarray, "state state"], initial: object, functional: object
) -> tuple[Float[np.ndarray, " state"], Float[np.ndarray, " state"]]:
    """Functional ``w`` and stationary ``p`` of a generalized hidden Markov process.

    ``chain @ w == w``, ``p @ chain == p`` and ``w @ p == 1``. Unless ``w`` is given, its first
    non-zero component is 1; where the eigenvalue 1 is not simple and rows sum to 1, it is ones.

    Raises
    ------
    ValueError
        If the largest eigenvalue is not 1; if it is not simple, and ``initial`` is None or ``w`` is
        neither given nor ones; or if the ``functional`` given is none.
    """
    count = _multiplicity_of_one(name, chain)
    left, right = fixed_vectors(chain, count)
    if np.linalg.matrix_rank(left @ right, tol=EXACT) < count:
        raise ValueError(f"transition of {name!r} has no stationary law: its eigenvalue 1 is defective")
    ones = np.ones(len(chain))
    if functional is not None:
        w = _checked_functional(functional, chain)
    elif count == 1:
        w = _first_component_one(right[:, 0])
    else:
        w = ones if np.allclose(chain.sum(1), 1, rtol=0, atol=EXACT) else None
    if count == 1:
        return w, left[0] / (left[0] @ w)
    if w is None or initial is None:
        raise ValueError(
            f"transition of {name!r} is reducible: eigenvalue 1 of transition.sum(0) occurs {count} times; give one "
            "block at a time; or initial= (for a mixture, the weight of each block times its stationary law), and "
            "functional= where rows do not sum to 1"
        )
    start = checked_beliefs("initial", initial, w, signed=True)
    return w, start @ right @ np.linalg.solve(left @ right, left)


def _checked_functional(functional: object, chain: Float[np.ndarray, "state state"]) -> Float[np.ndarray, " state"]:
    w = np.array(functional, dtype=np.float64)
    if w.shape != chain.shape[:1]:
        raise ValueError(f"functional has shape {w.shape}; it must be {chain.shape[:1]}")
    off = float(np.abs(chain @ w - w).max())
    if not (off <= EXACT and w.any()):
        raise ValueError(
            f"functional must be a fixed vector of transition.sum(0), not 0 everywhere; it is moved by {off:.6g}"
        )
    return w


def _first_component_one(vector: Float[np.ndarray, " state"]) -> Float[np.ndarray, " state"]:
    vector = np.where(np.abs(vector) > EXACT, vector, 0)
    return vector / vector[(vector != 0).argmax()]


def _multiplicity_of_one(name: str, chain: Float[np.ndarray, "state state"]) -> int:
    radius = np.abs(np.linalg.eigvals(chain)).max()
    singular = np.linalg.svd(chain - np.eye(len(chain)), compute_uv=False)
    count = int((singular <= EXACT * max(1, singular[0])).sum())
    if radius > 1 + 1e-6 or count == 0:
        raise ValueError(
            f"transition of {name!r} is generalized, so transition.sum(0) must have "
            f"largest eigenvalue 1; it has {radius:.10g}: divide transition by that if its scale is meant to be free"
        )
    return count


def refuse_negative_words(
    name: str,
    transition: Float[np.ndarray, "token state state"],
    functional: Float[np.ndarray, " state"],
    initial: Float[np.ndarray, " state"],
) -> None:
    """Check every word of a signed tensor, shortest first, up to ``CHECKED_WORDS`` of one length.

    No finite check is a proof. ``p(x_1 .. x_n) = initial @ T[x_1] @ ... @ T[x_n] @ functional``.

    Raises
    ------
    ValueError
        Naming the first word of negative probability.
    """
    n_tokens, n_states, _ = transition.shape
    flat = transition.transpose(1, 0, 2).reshape(n_states, -1)
    vectors = initial[None]
    for length in range(1, 33):
        if n_tokens**length > CHECKED_WORDS:
            return
        vectors = (vectors @ flat).reshape(-1, n_states)
        probability = vectors @ functional
        if probability.min() < -ROUNDING:
            first = int((probability < -ROUNDING).argmax())
            word = [int(x) for x in np.unravel_index(first, (n_tokens,) * length)]
            raise ValueError(
                f"transition of {name!r} gives the word {word} probability {probability[first]:.6g}: "
                "it is not a process from where it starts"
            )
