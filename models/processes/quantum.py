"""Generalized processes: measured quantum systems, and two that no finite hidden Markov process is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np
from jaxtyping import Complex, Float

from nextlens.models.arguments import between
from nextlens.models.processes.gauge import EXACT, ROUNDING
from nextlens.models.processes.process import Process


def bloch_walk(alpha: float | int = 1.0, beta: float | int = 51**0.5) -> Process:
    """A qubit measured weakly along z or along x, by turns at random; "Tom quantum" elsewhere [1]_.

    Tokens 0 and 1 are the outcomes along z, 2 and 3 along x, of the operators ``g (alpha I ± beta
    s_z)`` and ``g (alpha I ± beta s_x)`` with ``g = 1 / (2 sqrt(alpha^2 + beta^2))``. A belief is (1,
    b_x, b_z), a point of the unit disc; the functional is (1, 0, 0), and so is the stationary law. The
    entropy rate is 1.36725 nats at the defaults, 1.33634 at ``beta=4.3`` and 1.29157 at ``beta=3``.

    Parameters
    ----------
    alpha, beta : float
        Above 0.

    References
    ----------
    .. [1] Riechers, P. M. et al. arXiv:2507.07432; the defaults are theirs.
    """
    _above_zero("alpha", alpha)
    _above_zero("beta", beta)
    length = alpha**2 + beta**2
    transition = _bloch(2 * alpha * beta / length, (alpha**2 - beta**2) / length, 0.5)
    return Process(transition, name="bloch_walk", parameters={"alpha": alpha, "beta": beta})


def bloch_walk_from_angle(theta: float | int, p_z: float | int = 0.5) -> Process:
    """``bloch_walk`` by the strength of its measurements and the share of those along z.

    ``bloch_walk(alpha, beta)`` has ``theta = 2 arctan(beta / alpha)`` and ``p_z = 1/2``. A
    measurement scales the component that it reads by 1 and the others by ``cos(theta)``, on average.

    Parameters
    ----------
    theta : float
        Radians, between 0 (which measures nothing) and pi (which only turns), ends excluded.
    p_z : float in (0, 1)
    """
    between("theta", theta, 0, np.pi)
    between("p_z", p_z, 0, 1)
    transition = _bloch(np.sin(theta), np.cos(theta), p_z)
    return Process(transition, name="bloch_walk_from_angle", parameters={"theta": theta, "p_z": p_z})


def _bloch(read: float | int, kept: float | int, p_z: float | int) -> Float[np.ndarray, "token state state"]:
    along_z = [[[1, 0, m], [0, kept, 0], [m, 0, 1]] for m in (read, -read)]
    along_x = [[[1, m, 0], [m, 1, 0], [0, 0, kept]] for m in (read, -read)]
    return np.concatenate([p_z * np.array(along_z), (1 - p_z) * np.array(along_x)]) / 2


def from_kraus(
    operators: Sequence[object],
    name: str = "quantum",
    initial: Complex[np.ndarray, "level level"] | Float[np.ndarray, "level level"] | None = None,
) -> Process:
    """The record of a quantum system measured again and again.

    ``T[x, i, j] = Re tr(B_j K B_i K^†) / d``, summed over the operators ``K`` of outcome ``x``, where
    ``B_0 = I`` and the others are the generalized Gell-Mann matrices with ``tr(B_i B_j) = d``
    if ``i == j`` and 0 if not. A belief holds ``tr(B_i rho)`` of the density matrix, so its first
    component is 1, and the functional is (1, 0, .., 0).

    Parameters
    ----------
    operators : sequence, one for each token, of arrays (d, d) or (operator, d, d)
        The ``K^† K`` of all of them sum to the identity.
    name : str, default="quantum"
    initial : array of shape (d, d), optional
        The density matrix before anything is read; None means the stationary one.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, or the operators do not sum to the identity; if
        ``initial`` is no density matrix, or is None where more than one is stationary.

    Examples
    --------
    >>> z = np.array([[1, 0], [0, -1]])
    >>> from_kraus([0.6 * np.eye(2), 0.8 * z], initial=np.full((2, 2), 0.5)).opening.round(2).tolist()
    [0.36, 0.64]
    """
    outcomes = _checked_operators(operators)
    levels = outcomes[0].shape[-1]
    basis = _hermitian_basis(levels)
    transition = np.stack(
        [np.einsum("jab,nbc,icd,nad->ij", basis, K, basis, K.conj(), optimize=True).real for K in outcomes]
    )
    functional = np.eye(1, levels**2)[0]
    start = None if initial is None else _coordinates(np.asarray(initial), basis)
    return Process(transition / levels, name=name, initial=start, functional=functional)


def _checked_operators(operators: Sequence[object]) -> list[Complex[np.ndarray, "operator level level"]]:
    outcomes = [np.asarray(outcome, dtype=np.complex128) for outcome in operators]
    shapes = [outcome.shape for outcome in outcomes]
    levels = shapes[0][-1:] * 2 if shapes else ()
    if not levels or 0 in levels or any(shape[-2:] != levels or len(shape) not in {2, 3} for shape in shapes):
        raise ValueError(f"operators have shapes {shapes}; each must be (d, d) or (operator, d, d), with one d")
    outcomes = [outcome.reshape(-1, *levels) for outcome in outcomes]
    total = sum(np.einsum("nab,nac->bc", K.conj(), K) for K in outcomes)
    off = float(np.abs(total - np.eye(levels[0])).max())
    if not off <= EXACT:
        raise ValueError(f"operators must satisfy sum K^† K = 1; theirs is off by {off:.6g}")
    return outcomes


def _hermitian_basis(levels: int) -> Complex[np.ndarray, "state level level"]:
    """The identity and the generalized Gell-Mann matrices; for two levels the Pauli matrices x, y, z."""
    basis = [np.eye(levels, dtype=np.complex128)]
    for j, k in combinations(range(levels), 2):
        for entry in (1, -1j):
            matrix = np.zeros((levels, levels), dtype=np.complex128)
            matrix[j, k], matrix[k, j] = entry, np.conj(entry)
            basis.append(np.sqrt(levels / 2) * matrix)
    for k in range(1, levels):
        diagonal = np.r_[np.ones(k), -k, np.zeros(levels - k - 1)]
        basis.append(np.sqrt(levels / (k * (k + 1))) * np.diag(diagonal).astype(np.complex128))
    return np.stack(basis)


def _coordinates(
    density: Complex[np.ndarray, "*any"] | Float[np.ndarray, "*any"], basis: Complex[np.ndarray, "state level level"]
) -> Float[np.ndarray, " state"]:
    if density.shape != basis.shape[1:]:
        raise ValueError(f"initial has shape {density.shape}; it must be {basis.shape[1:]}")
    is_state = np.allclose(density, density.conj().T, rtol=0, atol=EXACT)
    if not is_state or np.linalg.eigvalsh(density).min() < -ROUNDING:
        raise ValueError("initial must be a density matrix: its own conjugate transpose, without eigenvalues below 0")
    return np.einsum("iab,ba->i", basis, density).real


def frdn(alpha: float | int = 2000.0, lambda_: float | int = 0.49) -> Process:
    """A renewal process that no finite hidden Markov process says; "Fanizza" elsewhere [1]_.

    Token 1 goes on, token 0 begins anew. After a beginning, ``n >= 1`` tokens 1 in a row or more have
    probability ``lambda^n (1 / (2 (1 - lambda)) - ((a + b) cos(n alpha) + (b - a) sin(n alpha)) / 4)``
    with ``a, b = (1 - lambda cos(alpha) ± lambda sin(alpha)) / (1 - 2 lambda cos(alpha) + lambda^2)``.
    If pi / ``alpha`` is a fraction, a finite hidden Markov process would do. The functional is ones. At
    the defaults the entropy rate is 0.6448 nats.

    Parameters
    ----------
    alpha : float
        Radians by token.
    lambda_ : float in [0, 1/2]
        Up to 1/2 all probabilities are at least 0, whatever ``alpha``.

    References
    ----------
    .. [1] Fanizza, M. et al. Quantum theory in finite dimension cannot explain every general process
       with finite memory. Communications in Mathematical Physics 405, 50, 2024; the defaults are those
       of arXiv:2507.07432.
    """
    between("alpha", alpha, -1e9, 1e9)
    between("lambda_", lambda_, 0, 0.5)
    c, s = np.cos(alpha), np.sin(alpha)
    scale = 1 - 2 * lambda_ * c + lambda_**2
    a, b = (1 - lambda_ * c + lambda_ * s) / scale, (1 - lambda_ * c - lambda_ * s) / scale
    begin = np.array([1 - (2 / (1 - lambda_) - a - b) / 4, 1 / (2 * (1 - lambda_)), -a / 4, -b / 4])
    go_on = np.zeros((4, 4))
    go_on[1, 1] = lambda_
    go_on[2:, 2:] = lambda_ * np.array([[c, -s], [s, c]])
    transition = np.stack([np.outer(1 - go_on.sum(axis=1), begin), go_on])
    return Process(transition, name="frdn", parameters={"alpha": alpha, "lambda_": lambda_})


def moon(alpha: float | int = np.e, beta: float | int = 0.5) -> Process:
    """Three dimensions, and neither a finite hidden Markov process nor a finite quantum one [1]_.

    Token 0 begins anew; tokens 1 and 2 multiply a weight by ``alpha`` and by ``beta``. After ``i`` of
    the one and ``j`` of the other, in any order, token 0 has a probability in proportion to ``v - 1 -
    ln v`` with ``v = alpha^i beta^j``, which is above 0 unless ``v == 1``. At the defaults the largest
    eigenvalue before scaling is 3.828537, the functional (1, 0.333739, 0.056006), and the entropy rate
    0.6992 nats.

    Parameters
    ----------
    alpha : float
        Above 1.
    beta : float
        Between 0 and 1; ``alpha + beta`` is not 2, and ``ln alpha / ln beta`` not a fraction. The last
        is checked for denominators up to 100.

    References
    ----------
    .. [1] "Post-quantum" in arXiv:2507.07432; the defaults are theirs.
    """
    if not 1 < alpha < np.inf:
        raise ValueError(f"alpha={alpha!r} must be above 1 and finite")
    if not 0 < beta < 1:
        raise ValueError(f"beta={beta!r} must lie between 0 and 1, ends excluded")
    if abs(alpha + beta - 2) < EXACT:
        raise ValueError(f"alpha={alpha!r} and beta={beta!r} sum to 2, which they must not")
    ratio = np.log(alpha) / np.log(beta)
    nearest = Fraction(ratio).limit_denominator(100)
    if abs(ratio - nearest) < EXACT:
        raise ValueError(
            f"ln(alpha)/ln(beta) with alpha={alpha!r}, beta={beta!r} is {nearest}; it must not be a fraction"
        )
    begin = np.outer([1, 1, 0], [1, -1, -1])
    weigh = [np.array([[v, 0, 0], [0, 1, 0], [0, np.log(v), 1]]) for v in (alpha, beta)]
    transition = np.stack([begin, *weigh])
    radius = np.linalg.eigvals(transition.sum(0)).real.max()
    return Process(transition / radius, name="moon", parameters={"alpha": alpha, "beta": beta})


def _above_zero(name: str, value: float | int) -> None:
    if not 0 < value < np.inf:
        raise ValueError(f"{name}={value!r} must be above 0 and finite")
