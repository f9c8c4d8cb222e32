"""Ridges on a device that is handed in: the numbers of NumPy, targets block by block, float64 or a refusal."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import ShuffleSplit

from nextlens.models.torch_device import TorchDevice
from nextlens.probes.banded_ridge import BandedRidgeCV
from nextlens.probes.ridge_cv import RidgeCV
from nextlens.probes.ridge_device import HERE, Device

ALPHAS = np.logspace(-1, 5, 7)
GAMMAS = [[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]]
pytestmark = [
    pytest.mark.filterwarnings("ignore:of .* targets .* chose the least penalty"),
    pytest.mark.filterwarnings("ignore:. of .* targets (hold NaN|are constant)"),
]
SHAPES = [(120, 10, 7), (60, 90, 40), (900, 12, 9)]  # more rows than features, fewer, and stretches that are turned
SPLITTERS = {"pieces": 4, "many pieces": ShuffleSplit(6, random_state=0)}


def rows(n, features, targets, dtype=np.float64):
    """Autocorrelated features; a target with a NaN, and a constant one."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, features)).cumsum(0) * 0.3 + rng.standard_normal((n, features)) + 2
    Y = X @ (rng.standard_normal((features, targets)) * np.linspace(0, 1.5, targets))
    Y += 3 * rng.standard_normal((n, targets)) - 4
    Y[3, 0], Y[:, 1] = np.nan, 2.0
    return X.astype(dtype), Y.astype(dtype)


def alike(there, here, names, tolerance=1e-6):
    for name in names:
        value = getattr(there, name)
        assert isinstance(value, np.ndarray)
        assert value.dtype == getattr(here, name).dtype
        np.testing.assert_allclose(value, getattr(here, name), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("device", [HERE, TorchDevice("cpu")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_device_must_do(device, dtype):
    rng = np.random.default_rng(0)
    x, some = rng.standard_normal((50, 6)).astype(dtype), np.array([4, 1, 1])
    there = device.put(x)
    assert device.fetch(there).dtype == dtype
    np.testing.assert_array_equal(device.fetch(there[device.at(some)]), x[some])
    np.testing.assert_array_equal(device.fetch(there[:, device.at(slice(1, 3))]), x[:, 1:3])
    assert device.fetch(device.cast(there, np.float64)).dtype == np.float64
    assert device.fetch(device.empty((2, 3), dtype)).dtype == dtype
    found = device.put(x.copy())
    device.take_outer(found, np.arange(50.0), np.arange(6.0))
    np.testing.assert_allclose(device.fetch(found), x - np.outer(np.arange(50), np.arange(6)), rtol=1e-6)
    tenths = np.full((100_000, 2), 0.1, dtype)
    np.testing.assert_allclose(device.squares(device.put(tenths)), 1e5 * float(dtype(0.1)) ** 2, rtol=2e-6)
    gram = device.gram(x.astype(np.float64))
    np.testing.assert_allclose(gram, x.astype(np.float64).T @ x, rtol=1e-6)
    alphas, right = np.array([0.5, 3.0]), x[:6]
    for solved in (device.eigenvectors(gram), device.decomposed(gram, 0.5, dtype)):
        basis = device.cast(solved.basis, dtype)
        turned = basis.T @ device.put(right)
        each = [np.linalg.solve(gram + alpha * np.eye(6), right) for alpha in alphas]
        for number, expected in enumerate(each):
            damped = device.fetch(basis @ solved.damped(turned, alphas)[:, number])
            np.testing.assert_allclose(damped, expected, atol=1e-5)
        damped = device.fetch(basis @ solved.damped_each(turned[:, :2], alphas))
        np.testing.assert_allclose(damped, np.stack([each[0][:, 0], each[1][:, 1]], 1), atol=1e-5)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("splitter", "search"), [("pieces", "walk"), ("many pieces", "grid")])
def test_a_ridge_has_the_numbers_of_numpy(shape, splitter, search, form):
    if form == "dual" and shape[0] > 500:
        pytest.skip("nobody wants the dual form of long data")
    X, Y = rows(*shape)
    options = {"cv": SPLITTERS[splitter], "search": search, "form": form}
    here, there = (RidgeCV(ALPHAS, device=device, **options).fit(X, Y) for device in (None, TorchDevice("cpu")))
    np.testing.assert_array_equal(there.alpha_, here.alpha_)
    alike(there, here, ["coef_", "intercept_", "cv_score_"])
    assert (there.form_, there.products_, there.tried_) == (here.form_, here.products_, here.tried_)
    assert there.missing_targets_.tolist() == [0]
    assert there.constant_targets_.tolist() == [1]
    np.testing.assert_allclose(there.predict(X), here.predict(X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize(("targets", "search"), [(7, "grid"), (400, "walk")])  # 400: maps with the basis in them
def test_a_banded_ridge_has_the_numbers_of_numpy(targets, search, form):
    X, Y = rows(60, 20, targets)
    options = {"cv": 3, "candidates": GAMMAS, "refinements": 2, "search": search, "form": form}
    bands = [slice(0, 8), slice(8, 20)]
    here, there = (BandedRidgeCV(bands, ALPHAS, device=one, **options).fit(X, Y) for one in (None, TorchDevice("cpu")))
    np.testing.assert_array_equal(there.alpha_, here.alpha_)
    np.testing.assert_array_equal(there.gamma_, here.gamma_)
    alike(there, here, ["coef_", "intercept_", "cv_score_", "single_band_score_"])
    assert len(np.unique(here.gamma_[0])) > 2


class Watched(TorchDevice):
    """A device that keeps the shapes of what comes, and the precision of what is decomposed."""

    def put(self, values):
        seen.append(values.shape)
        return super().put(values)

    def eigenvectors(self, matrix):
        there = super().eigenvectors(matrix)
        precisions.add((matrix.dtype.name, str(there.basis.dtype)))
        return there


seen: list[tuple[int, ...]] = []
precisions: set[tuple[str, str]] = set()


def test_targets_come_block_by_block_from_a_memory_map_and_features_once(tmp_path):
    X, Y = rows(120, 10, 60)
    np.save(tmp_path / "responses.npy", Y)
    mapped = np.load(tmp_path / "responses.npy", mmap_mode="r")
    with pytest.raises(ValueError, match="give at least") as refused:
        RidgeCV(ALPHAS, cv=3, memory=1).fit(X, Y)
    least = float(str(refused.value).rpartition("give at least ")[2].partition(",")[0])
    seen.clear()
    there = RidgeCV(ALPHAS, cv=3, memory=least + 60_000, device=Watched("cpu")).fit(X, mapped)
    assert 1 < there.block_size_ < 30
    assert (120, there.block_size_) in seen
    assert max(shape[1] for shape in seen if len(shape) == 2 and shape[0] == 120) == there.block_size_
    assert seen.count((3 * 11, 10)) == 1  # three pieces, each as many rows as features and one for its mean
    alike(there, RidgeCV(ALPHAS, cv=3).fit(X, Y), ["coef_", "cv_score_"])


def test_single_precision_is_decomposed_in_double():
    """Twin columns make XᵀX singular in float32, where its eigenvalues come out negative."""
    base, Y = rows(200, 30, 4, np.float32)
    X = np.hstack([base, base])
    precisions.clear()
    there = RidgeCV(ALPHAS, cv=4, search="grid", device=Watched("cpu")).fit(X, Y)
    assert precisions == {("float64", "torch.float64")}
    here = RidgeCV(ALPHAS, cv=4, search="grid").fit(X, Y)
    assert there.coef_.dtype == np.float32
    np.testing.assert_array_equal(there.alpha_, here.alpha_)
    np.testing.assert_allclose(there.cv_scores_, here.cv_scores_, atol=1e-4)
    np.testing.assert_allclose(there.predict(X), here.predict(X), atol=1e-2 * np.nanstd(Y))


def test_what_was_fitted_on_a_device_is_cloned_pickled_and_serves_without_it():
    X, Y = rows(60, 5, 4)
    fitted = RidgeCV(ALPHAS, cv=3, device=TorchDevice("cpu")).fit(X, Y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    assert clone(fitted).device == fitted.device == TorchDevice("cpu")
    assert isinstance(HERE, Device)
    assert isinstance(TorchDevice("cpu"), Device)


@pytest.mark.parametrize("estimator", [RidgeCV, BandedRidgeCV])
def test_what_is_no_device_is_refused(estimator):
    X, Y = rows(60, 5, 4)
    with pytest.raises(ValueError, match=r"device='cuda' must be None, for NumPy, or an object .*TorchDevice"):
        estimator(device="cuda").fit(X, Y)
    with pytest.raises(ValueError, match=r"one block of targets after another, and n_jobs .* for 2 workers"):
        estimator(device=TorchDevice("cpu"), n_jobs=2).fit(X, Y)
    with parallel_config(backend="threading", n_jobs=3), pytest.raises(ValueError, match="for 3 workers"):
        estimator(device=TorchDevice("cpu")).fit(X, Y)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "abacus"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"name='{name}' is no device that holds numbers here: "):
        TorchDevice(name)


def test_a_device_without_float64_is_refused(monkeypatch):
    """As Apple's: there is none on the machines that test this."""
    to = torch.Tensor.to

    def without(self, *given, **named):
        if torch.float64 in given:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return to(self, *given, **named)

    monkeypatch.setattr(torch.Tensor, "to", without)
    with pytest.raises(ValueError, match=r"name='cpu' has no float64, in which a ridge must be decomposed"):
        TorchDevice("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("form", ["primal", "dual"])
def test_cuda_has_the_numbers_of_numpy(form):
    X, Y = rows(120, 30, 40)
    bands = [slice(0, 10), slice(10, 30)]
    for make in (
        lambda device: RidgeCV(ALPHAS, cv=3, form=form, device=device),
        lambda device: BandedRidgeCV(bands, ALPHAS, cv=3, form=form, candidates=GAMMAS, device=device),
    ):
        here, there = (make(device).fit(X, Y) for device in (None, TorchDevice("cuda")))
        np.testing.assert_array_equal(there.alpha_, here.alpha_)
        alike(there, here, ["coef_", "intercept_", "cv_score_"])
