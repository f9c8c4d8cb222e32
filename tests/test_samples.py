"""Rows are matched by label, or refused; duplicates of a prefix are one row."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from nextlens.probes.samples import Samples, distinct, pair

N, T = 4, 3


def site(n=N, t=T, *trailing, dtype=np.float32):
    """A value per label that says which label it is, with the coordinates of a recording."""
    sequence, position = np.arange(10, 10 + n), np.arange(t)
    stamp = 100.0 * sequence[:, None] + position
    values = (
        stamp.reshape(n, t, *(1,) * len(trailing)) + np.arange(np.prod(trailing, dtype=int)).reshape(trailing) / 1024
    )
    tokens = (sequence[:, None] + position) % 2
    prefix = 2 * position + tokens[:, :1]
    return xr.DataArray(
        values.astype(dtype),
        dims=("sequence", "position", *(("head", "feature")[-len(trailing) :] if trailing else ())),
        coords={
            "sequence": sequence,
            "position": position,
            "token": (("sequence", "position"), tokens),
            "prefix": (("sequence", "position"), prefix),
        },
        name="blocks.0.hook_resid_post",
    )


def thinned(array, mask):
    """What is recorded with ``where``: one dimension of samples, labels along it."""
    flat = array.stack(sample=("sequence", "position"))
    flat = flat.transpose("sample", ...).isel(sample=np.flatnonzero(mask.ravel()))
    return flat.reset_index("sample")


def truth(**kwargs):
    return site(N, T, 2, dtype=np.float64).rename(feature="state", **kwargs).rename("beliefs")


@given(st.permutations(range(N)), st.permutations(range(T)), st.permutations(["sequence", "position", "feature"]))
def test_rows_meet_by_label_in_whatever_order_they_come(sequences, positions, dims):
    activations = site(N, T, 2).isel(sequence=sequences, position=positions).transpose(*dims)
    X, Y, groups = pair(activations, truth())
    np.testing.assert_allclose(X, Y, rtol=1e-6)
    np.testing.assert_array_equal(groups, Y[:, 0] // 100)
    reordered = pair(site(N, T, 2), truth().isel(sequence=sequences, position=positions).transpose("state", ...))
    np.testing.assert_allclose(reordered.X, reordered.Y, rtol=1e-6)


@given(st.integers(1, 2 ** (N * T) - 1), st.randoms(use_true_random=False))
def test_thinned_rows_meet_by_label_too(bits, random):
    mask = np.array([bits >> i & 1 for i in range(N * T)], bool).reshape(N, T)
    few = thinned(site(N, T, 2), mask)
    order = random.sample(range(mask.sum()), int(mask.sum()))
    targets = thinned(truth(), mask).isel(sample=order)
    for X, Y, groups in (pair(few, truth()), pair(few, targets)):
        assert len(X) == mask.sum()
        np.testing.assert_allclose(X, Y, rtol=1e-6)
        np.testing.assert_array_equal(groups, Y[:, 0] // 100)


def test_whole_activations_are_content_with_samples_only_where_those_suffice():
    mask = np.ones((N, T), bool)
    mask[1, 2] = False
    few = thinned(truth(), mask)
    labelled = xr.DataArray(mask, dims=("sequence", "position"), coords=site().drop_vars(["token", "prefix"]).coords)
    assert len(pair(site(N, T, 2), few, where=labelled).X) == N * T - 1
    with pytest.raises(
        ValueError,
        match=r"1 of 12 labels of activations .* missing in targets .*; the first is \(sequence 11, position 2\)",
    ):
        pair(site(N, T, 2), few)


@pytest.mark.parametrize(
    ("activations", "targets", "said"),
    [
        (
            site(N, T, 2),
            truth().isel(position=slice(1, None)),
            r"4 of 12 labels of activations 'blocks.0.hook_resid_post' .* 'beliefs'; .* is \(sequence 10, position 0\)",
        ),
        (
            site(N, T, 2).isel(sequence=[0, 2]),
            truth(),
            r"6 of 12 labels of targets 'beliefs' are missing in activations .*; .* is \(sequence 11, position 0\)",
        ),
        (
            site(N, T, 2).isel(sequence=[0, 0, 1]),
            truth(),
            r"3 labels of activations .* occur more than once; the first is \(sequence 10, position 0\)",
        ),
        (site(N, T, 2), truth().isel(sequence=[0, 1, 2, 3, 3]), "3 labels of targets 'beliefs' occur more than once"),
        (site(N, T, 2).drop_vars("position"), truth(), "activations .* no coordinate 'position'"),
        (site(N, T, 2), truth().rename(sequence="text"), "targets .* no dimension 'sequence'"),
        (site(N, T, 2), site(N, T, 2, 2), r"at most one may come beside the labels"),
        (site(N, T, 2), truth().assign_coords(sequence=list("abcd")), "numbers and words never match"),
        (site(N, T, 2).isel(sequence=[]), truth(), "have no rows"),
        (site(N, T, 2), truth().astype(str), "not real numbers"),
    ],
)
def test_rows_that_cannot_be_matched_are_refused_with_the_first_label(activations, targets, said):
    with pytest.raises(ValueError, match=said):
        pair(activations, targets)


def test_beliefs_before_each_token_cannot_be_paired_with_inputs_after_it():
    """Beliefs (sequence, time + 1) against inputs (sequence, time) of a known public loader."""
    beliefs = truth()
    with pytest.raises(ValueError, match="missing"):
        pair(site(N, T - 1, 2), beliefs)


def test_every_dimension_beyond_the_labels_becomes_features():
    X, Y, _ = pair(site(N, T, 2, 5), site(N, T, dtype=np.float64))
    assert X.shape == (N * T, 10)
    assert X.dtype == np.float32
    assert Y.shape == (N * T,)
    np.testing.assert_array_equal(X, site(N, T, 2, 5).values.reshape(N * T, 10))


def test_whole_number_targets_become_floats():
    assert pair(site(N, T, 2), site(N, T, dtype=np.int64)).Y.dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_unless_not_kept(value):
    broken, beliefs = site(N, T, 2), truth()
    broken[2, 1, 0] = broken[3, 0, 1] = value
    beliefs[1, 1, 0] = value
    with pytest.raises(
        ValueError,
        match=r"activations 'blocks.0.hook_resid_post' hold 2 NaN or infinite .* first at \(sequence 12, position 1\)",
    ):
        pair(broken, truth())
    with pytest.raises(
        ValueError, match=r"targets 'beliefs' hold 1 NaN or infinite values; the first at \(sequence 11, position 1\)"
    ):
        pair(site(N, T, 2), beliefs)
    whole = xr.ones_like(truth().isel(state=0, drop=True), dtype=bool)
    whole[2, 1] = whole[3, 0] = whole[1, 1] = False
    assert len(pair(broken, beliefs, where=whole).X) == N * T - 3


@pytest.mark.parametrize("thin", [False, True])
def test_where_keeps_rows_by_label_along_the_dimensions_it_has(thin):
    activations = thinned(site(N, T, 2), np.ones((N, T), bool)) if thin else site(N, T, 2)
    late = xr.DataArray([True, False, True], dims="position", coords={"position": [2, 0, 1]})
    X, Y, _ = pair(activations, truth(), where=late)
    np.testing.assert_allclose(X, Y, rtol=1e-6)
    assert set(Y[:, 0] % 100) == {1.0, 2.0}
    own = pair(activations, truth(), where=activations.position >= 1)
    np.testing.assert_array_equal(own.X, X)


def test_where_must_be_boolean_keep_something_and_know_the_labels():
    position = site().position
    with pytest.raises(ValueError, match="where holds int64"):
        pair(site(N, T, 2), truth(), where=position)
    with pytest.raises(ValueError, match=r"where .*keeps none of the 12 rows"):
        pair(site(N, T, 2), truth(), where=position > 9)
    with pytest.raises(ValueError, match=r"4 of 12 labels of activations .* missing in where"):
        pair(site(N, T, 2), truth(), where=position[1:] > 0)


def test_groups_are_sequences_prefixes_or_labels_of_ones_own():
    activations = site(N, T, 2)
    keep = activations.position > 0
    by_prefix = pair(activations, truth(), where=keep, groups="prefix")
    np.testing.assert_array_equal(by_prefix.groups, activations.prefix.values[:, 1:].ravel())
    last = activations.token.astype(str).isel(sequence=[3, 1, 0, 2])
    own = pair(activations, truth(), groups=last)
    np.testing.assert_array_equal(own.groups, activations.token.values.ravel())
    words = pair(activations.assign_coords(sequence=list("dbca")), truth().assign_coords(sequence=list("dbca")))
    np.testing.assert_array_equal(words.groups, np.repeat([3, 1, 2, 0], T))
    with pytest.raises(ValueError, match="groups='prefixes' is not one of 'sequence', 'prefix'; did you mean 'prefix'"):
        pair(activations, truth(), groups="prefixes")
    with pytest.raises(ValueError, match="no coordinate 'prefix'"):
        pair(activations.drop_vars("prefix"), truth(), groups="prefix")


def prefix_rows(seed, n=300, time=4):
    """Samples of a causal model on random binary sequences."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, size=(n, time))
    prefix = np.cumsum(tokens * 2 ** np.arange(time), axis=1) + 2 ** np.arange(1, time + 1) - 2
    table = rng.standard_normal((2 ** (time + 1), 5))
    rows = table[prefix.ravel()]
    return Samples(rows.astype(np.float32), rows[:, :2], prefix.ravel())


@given(st.integers(0, 2**32 - 1))
def test_counts_of_distinct_rows_keep_every_mean(seed):
    samples = prefix_rows(seed)
    few, counts = distinct(samples)
    assert len(np.unique(few.groups)) == len(few.groups) == len(np.unique(samples.groups))
    assert counts.sum() == len(samples.X)
    np.testing.assert_allclose(counts / counts.sum() @ few.Y, samples.Y.mean(0), atol=1e-12)


def test_weights_of_sampled_prefixes_converge_to_their_probability():
    samples = prefix_rows(0, n=200_000)
    _, counts = distinct(samples)
    length = np.log2(np.unique(samples.groups) + 2).astype(int)
    slope = np.polyfit(np.log(0.5**length), np.log(counts / counts.sum()), 1)[0]
    assert abs(slope - 1.0) < 0.01


def test_rows_of_one_group_that_differ_are_refused():
    samples = prefix_rows(1)
    row = np.flatnonzero(samples.groups == samples.groups[0])[5]
    X, Y = samples.X.copy(), samples.Y.copy()
    X[row, 3] += 1e-2
    Y[row, 1] += 1e-2
    with pytest.raises(ValueError, match=f"rows 0 and {row} of X are of one group"):
        distinct(samples._replace(X=X))
    with pytest.raises(ValueError, match=f"rows 0 and {row} of Y are of one group"):
        distinct(samples._replace(Y=Y))
    assert len(distinct(samples._replace(X=X), tolerance=0.1)[0].X) == 30
