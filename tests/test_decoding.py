from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nextlens.models.batch import Batch
from nextlens.models.decoding import _ReadingAnew, _ReadingOn, complete
from nextlens.models.processes import golden_mean
from nextlens.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(n_tokens=5, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=16, seed=1)
PROMPTS = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (6, 4)))
MODELS = {
    "learned": Transformer(CONFIG),
    "rotary": Transformer(replace(CONFIG, positions="rotary")),
    "none": Transformer(replace(CONFIG, positions="none")),
    "relative": Transformer(replace(CONFIG, positions="relative")),
    "gated, pre and post RMSNorm": Transformer(
        replace(CONFIG, gated=True, normalisation="RMSNorm", post_normalisation=True, activation="gelu")
    ),
    "attention only": Transformer(replace(CONFIG, d_mlp=0)),
}


def slowly(model, prompts, positions, n_new, end=None):
    """One prompt, one token and one whole pass at a time."""
    rows = []
    for b in range(len(prompts)):
        tokens, said = prompts[b].tolist(), []
        while len(said) < n_new:
            if said and said[-1] == end:
                said.append(end)
                continue
            batch = Batch.from_tokens([[*tokens, 0]]).with_(positions=positions[b : b + 1, : len(tokens)])
            said.append(int(model.log_probs(batch)[0, -1].argmax()))
            tokens.append(said[-1])
        rows.append(said)
    return torch.tensor(rows)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("end", [None, 2])
def test_greedy_completion_equals_one_pass_a_token(kind, end):
    rng = np.random.default_rng(1)
    positions = torch.from_numpy(rng.permuted(np.tile(np.arange(16), (6, 1)), axis=1)[:, :9])
    expected = slowly(MODELS[kind], PROMPTS, positions, 6, end)
    said = complete(MODELS[kind], PROMPTS, 6, positions=positions, end=end)
    assert torch.equal(said, expected)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "relative"])
def test_keys_and_values_kept_give_the_scores_of_reading_anew(kind):
    model, places = MODELS[kind], torch.arange(12).expand(6, 12)
    on, anew = _ReadingOn(model, PROMPTS, places), _ReadingAnew(model, PROMPTS, places)
    for step in range(5):
        scores = on.scores()
        torch.testing.assert_close(scores.log_softmax(-1), anew.scores(), atol=1e-5, rtol=1e-5)
        keep = torch.ones(len(scores), dtype=torch.bool)
        keep[0] = step == 3
        token = scores.argmax(-1)
        on.extend(token, keep)
        anew.extend(token, keep)


@pytest.mark.parametrize("site", ["blocks.0.resid_post", "embed", "ln_final.hook_normalized"])
def test_what_is_said_under_an_edit_is_what_the_edited_model_says(site):
    model = MODELS["learned"]

    def turned(value):
        return -2 * value

    plain = complete(model, PROMPTS, 5)
    with model.edited(site, turned):
        expected = slowly(model, PROMPTS, torch.arange(9).expand(6, 9), 5)
        assert torch.equal(complete(model, PROMPTS, 5), expected)
    assert not torch.equal(expected, plain)
    assert torch.equal(complete(model, PROMPTS, 5), plain)


def test_samples_follow_the_law_of_the_kernel_at_its_temperature():
    """The golden mean process after a 0, whose next two tokens are enumerated."""
    process = golden_mean()
    law = process.log_probs(Batch.from_tokens([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    first = law[0, 0].exp()
    expected = {(a, b): float(first[a] * law[a, 1, b].exp()) for a in (0, 1) for b in (0, 1)}
    said = complete(process, torch.zeros(20_000, 1, dtype=torch.long), 2, temperature=1.0, rng=np.random.default_rng(0))
    for word, probability in expected.items():
        share = float((said == torch.tensor(word)).all(1).float().mean())
        assert share == pytest.approx(probability, abs=4 * np.sqrt(0.25 / 20_000))
    cold = first**2 / (first**2).sum()
    said = complete(process, torch.zeros(20_000, 1, dtype=torch.long), 1, temperature=0.5, rng=np.random.default_rng(0))
    assert float((said == 1).float().mean()) == pytest.approx(float(cold[1]), abs=0.015)


def test_what_is_said_does_not_depend_on_how_many_rows_are_decoded_at_once():
    assert torch.equal(complete(MODELS["learned"], PROMPTS, 5, rows_at_once=2), complete(MODELS["learned"], PROMPTS, 5))
    drawn = [complete(MODELS["learned"], PROMPTS, 5, temperature=1.0, rng=np.random.default_rng(0)) for _ in range(2)]
    assert torch.equal(*drawn)


class Broken:
    n_tokens = 5

    def log_probs(self, batch):
        return torch.full((*batch.tokens.shape, 5), torch.nan)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_new": 0}, "n_new=0 must be at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0 must be finite"),
        ({"temperature": 1.0}, "rng is None"),
        ({"prompts": PROMPTS[:, :0]}, "prompts are empty"),
        ({"prompts": PROMPTS + 5}, "prompts hold"),
        ({"positions": torch.zeros(6, 4, dtype=torch.long)}, "positions has shape"),
        ({"n_new": 20}, "positions hold"),
        ({"model": Broken()}, "law that is not finite"),
    ],
)
def test_wrong_arguments_are_named(changes, said):
    with pytest.raises(ValueError, match=said):
        complete(**({"model": MODELS["learned"], "prompts": PROMPTS, "n_new": 3} | changes))
