from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from nextlens.analyses import addition_training
from nextlens.analyses.addition_heads import (
    PATTERNS,
    _averaged,
    best_heads,
    carry_probes,
    head_patterns,
    one_sum,
    pattern_keys,
    without_heads,
)
from nextlens.analyses.addition_lengths import by_length, generalisable_length, swapped_ids
from nextlens.analyses.addition_numbers import _weakest, summary
from nextlens.analyses.addition_positions import id_scores, margins, neighbour_similarity, offset_preference
from nextlens.analyses.addition_recipe import KINDS, AdditionRecipe
from nextlens.analyses.addition_run import run
from nextlens.analyses.addition_training import Best, loss_of
from nextlens.analyses.cli import nextlens
from nextlens.analyses.displays import style
from nextlens.analyses.displays.bars import BarsDisplay
from nextlens.analyses.displays.heat_maps import HeatMapsDisplay
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.tasks.addition import END, EQUALS, PLUS, Addition
from nextlens.models.tasks.prompted import batch_of, prompts_of, solved
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

TASK = Addition(digits=3, n_positions=24)
MODEL = Transformer(
    TransformerConfig(n_tokens=TASK.n_tokens, n_layers=2, n_heads=2, d_model=16, d_mlp=16, n_ctx=40, seed=2)
)
TINY = AdditionRecipe(
    digits=2,
    n_positions=12,
    lengths=(2, 3),
    start=2,
    n_heads=2,
    d_model=8,
    d_head=4,
    d_mlp=8,
    steps=4,
    steps_baseline=2,
    batch_size=8,
    select=4,
    seeds=(0,),
)


@dataclass(frozen=True)
class AddsByIds:
    """A kernel that adds the digits of one id, whatever the tokens spell; carries from the id below."""

    task: Addition
    ends_after: int | None = None

    @property
    def n_tokens(self) -> int:
        return self.task.n_tokens

    def log_probs(self, batch: Batch) -> torch.Tensor:
        tokens, places = batch.tokens.numpy(), batch.positions.numpy()
        laws = np.full((*tokens.shape, self.n_tokens), -30.0)
        for b, row in enumerate(tokens):
            equals = int(np.flatnonzero(row == EQUALS)[0])
            start = int(places[b, equals])
            worth = np.zeros(40, dtype=int)
            for token, place in zip(row[:equals], places[b, :equals], strict=True):
                if token < 10:
                    worth[place - start - 1] += token
            n = int((row[:equals] < 10).sum()) // self.task.n_operands
            carry = 0
            for j, t in enumerate(range(equals, len(row))):
                carry, digit = divmod(worth[j] + carry, 10)
                last = j > n or (self.ends_after is not None and j >= self.ends_after)
                laws[b, t, END if last else digit] = 0.0
        return torch.from_numpy(laws).log_softmax(-1)


def test_who_adds_by_ids_adds_at_every_length_and_what_the_ids_spell():
    adder = AddsByIds(TASK)
    found = by_length(adder, TASK, (2, 5, 9), np.random.default_rng(0), start=3, n=40)
    assert all((found[name].values == 1).all() for name in found)
    swapped = swapped_ids(adder, TASK, np.random.default_rng(0), digits=5, start=3, n=60)
    assert (float(swapped.untouched), float(swapped["as exchanged"]), float(swapped["as written"])) == (1, 1, 0)


def test_an_end_said_too_early_costs_the_exact_match_and_not_the_digits_before_it():
    found = by_length(AddsByIds(TASK, ends_after=3), TASK, (2, 4), np.random.default_rng(0), n=40)
    assert found.exact.values.tolist() == [1, 0]
    assert found.exact_digits.values.tolist() == [1, 0]
    assert found.token.values.tolist() == pytest.approx([1, 3 / 5])
    late = by_length(AddsByIds(TASK), Addition(digits=3, n_positions=24), (4,), np.random.default_rng(0), n=10)
    assert late.end.values.tolist() == [1]


def test_a_greedy_answer_is_right_if_and_only_if_every_true_token_is_most_probable():
    """The measure needs no decoding; decoded, it is the same. A model half trained, so that some sums are right."""
    task = Addition(digits=1, n_positions=8)
    model = Transformer(replace(MODEL.config, n_layers=1, d_model=32, seed=1))
    for _ in train(model, task.batches(64, np.random.default_rng(0)), steps=60):
        pass
    drawn = task.draw(200, np.random.default_rng(1), digits=1, start=1)
    positions = torch.from_numpy(drawn.positions.values[:, :-1].copy())
    said = complete(model, prompts_of(drawn), 3, positions=positions)
    right = solved(drawn, said)
    found = by_length(model, task, (1,), np.random.default_rng(1), n=200)
    assert 0 < right.mean() < 1
    assert float(found.exact[0]) == pytest.approx(right.mean())


def test_the_length_that_is_reached_is_the_last_before_the_first_that_is_not():
    assert generalisable_length([10, 5, 20], [0.96, 1.0, 0.95]) == 10
    assert generalisable_length([5, 10], [0.5, 1.0]) == 0


def test_the_patterns_are_the_papers_on_its_example():
    """``$653+049=2070$``: to say the 0 of the tens, look at 5 and 4; and at 3, 9 and 2 for what is carried."""
    drawn = TASK.of([[653, 49]])
    keys = pattern_keys(drawn)
    spelled = list("$653+049=2070$")
    looks = {
        name: [["".join(spelled[k] for k in np.flatnonzero(row)), t] for t, row in enumerate(one[0]) if row.any()]
        for name, one in keys.items()
    }
    assert looks["same id"] == [["39", 8], ["54", 9], ["60", 10]]
    assert looks["previous id"] == [["392", 9], ["540", 10], ["607", 11]]


def planted(offset: int) -> Transformer:
    """One head that looks at ids ``offset`` from its own, among digits, and nothing else: ids are one-hot."""
    ids, tokens = 24, TASK.n_tokens
    config = TransformerConfig(
        n_tokens=tokens, n_layers=1, n_heads=1, d_model=ids + tokens, d_head=ids + 1, d_mlp=0, n_ctx=ids,
        normalisation="none",
    )  # fmt: skip
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[:, ids:] = torch.eye(tokens)
        model.pos_embed.W_pos[:, :ids] = torch.eye(ids)
        attention = model.blocks[0].attn
        attention.W_Q[0, :ids, :ids] = 200 * torch.eye(ids).roll(offset, 1)
        attention.W_K[0, :ids, :ids] = torch.eye(ids)
        attention.b_Q[0, ids] = 200.0
        attention.W_K[0, ids + PLUS :, ids] = -1.0
    return model


def test_planted_heads_are_found_with_all_their_attention():
    same = head_patterns(planted(1), TASK, np.random.default_rng(0), digits=3, start=2)
    assert float(same.mass.sel(pattern="same id")[0, 0]) > 0.6
    carries = head_patterns(planted(0), TASK, np.random.default_rng(0), digits=3, start=2)
    assert float(carries.mass.sel(pattern="previous id")[0, 0]) > 0.99
    assert float(carries.mass.sel(pattern="same id")[0, 0]) < 0.1
    assert float(carries.chance.sel(pattern="previous id")) < 0.4
    assert best_heads(carries)["previous id"] == (0, 0)
    preference = offset_preference(id_scores(planted(1)), slice(2, 20))
    assert preference[0].argmax() == 4
    assert neighbour_similarity(planted(1), slice(2, 20)) == pytest.approx(np.eye(18))


def test_margins_tell_rivals_trained_against_from_those_never_seen_together():
    scores = np.zeros((8, 8)) + 5 * np.eye(8).astype(float)
    scores[0, 2], scores[0, 6], scores[4, 1] = 1.0, 4.0, 7.0
    found = margins(scores, 0, 2)
    assert found.id.values.tolist() == list(range(8))
    assert found.together.values.tolist() == [4, 5, 5, 5, 5, 5, 5, 5]
    assert found.apart.values.tolist() == [1, 5, 5, 5, -2, 5, 5, 5]
    assert found.rival.values[[0, 4]].tolist() == [6, -3]
    assert margins(scores.T, 1, 2).id.values.tolist() == list(range(7))
    assert _weakest(found, first=10) == [14, 11]
    with pytest.raises(ValueError, match="together=7 leaves no id apart among 8"):
        margins(scores, 0, 7)


def test_one_sum_is_said_token_by_token():
    drawn = TASK.of([[653, 49]])
    found = one_sum(MODEL, TASK, dict.fromkeys(PATTERNS, (1, 0)), drawn)
    assert "".join(found.token.values) == "$653+049=2070"
    assert "".join(found.digit.values) == "2070"
    assert found.attention.sum("read").values == pytest.approx(1.0)
    assert found.expected.sel(pattern="previous id").sum("read").values.tolist() == [0, 3, 3, 3]


def test_carries_are_probed_where_they_are_known_and_not_where_they_are_not():
    """The carry is no function of the token read alone, so at the embedding a probe does no better than that token."""
    found = carry_probes(MODEL, TASK, np.random.default_rng(0), fitted=4, tested=(4, 6), n=200)
    assert found.site.values[0] == "embed"
    assert found.accuracy.dims == ("site", "digits")
    assert (found.accuracy.sel(site="embed").values < 0.85).all()
    assert (found.majority.values < 0.65).all()


def test_ablated_heads_give_their_mean_and_none_ablated_change_nothing():
    groups = {"all": [(0, 0), (0, 1), (1, 0), (1, 1)], "one": [(1, 0)]}
    found = without_heads(MODEL, TASK, groups, np.random.default_rng(0), digits=3, n=50)
    assert found.ablated.values.tolist() == ["nothing", "all", "one"]
    with MODEL.watched("blocks.0.attn.z") as seen:
        MODEL(batch_of(TASK.draw(50, np.random.default_rng(0), digits=3, start=1)))
    mean = seen["blocks.0.attn.z"].mean(0)
    edits = _averaged(seen["blocks.0.attn.z"], [1], mean)
    assert torch.equal(edits[:, :, 0], seen["blocks.0.attn.z"][:, :, 0])
    assert torch.equal(edits[7, :, 1], mean[:, 1])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("addition")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", partial(style.save, formats=("png",)))
        return run(TINY, folder, n_jobs=1), folder


def test_a_run_leaves_its_numbers_its_figures_and_its_models(done):
    numbers, folder = done
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    assert AdditionRecipe.from_json(numbers["recipe"]) == TINY
    for figure in ("lengths", "attention", "positions", "ablation"):
        assert (folder / f"{figure}.png").stat().st_size > 5000
    names = {path.parent.name for path in folder.glob("*/checkpoint.safetensors")}
    assert names == {f"{kind.replace(' ', '-')}-seed-0" for kind in KINDS}
    assert TINY.command in summary(TINY, numbers, folder)


def test_the_weights_kept_are_the_best_of_those_tried(done):
    """On the sums where they were tried they have the loss that is said, and no later weights had less."""
    numbers, folder = done
    assert [list(TINY.trials(kind)) for kind in KINDS] == [[1, 2, 3, 4], [1, 2], [1, 2]]
    assert list(replace(TINY, steps=130).trials("coupled")) == list(range(1, 131, 3))
    for kind in KINDS:
        chosen = numbers["selection"][kind][0]
        model = checkpoints.load(folder / f"{kind.replace(' ', '-')}-seed-0" / "checkpoint.safetensors")
        rng = np.random.default_rng([0, addition_training.SELECT])
        tried = TINY.task(kind).draw(addition_training.N_SELECTING, rng, digits=4, start=2)
        assert loss_of(model, tried) == pytest.approx(chosen["loss"], abs=1e-6)


def test_the_best_weights_are_copied_when_tried_and_put_back():
    model, best = Transformer(MODEL.config), Best()
    best.put_back(model)
    first = model.embed.W_E.detach().clone()
    for change, loss in ((0.0, 3.0), (1.0, 1.0), (1.0, 2.0)):
        with torch.no_grad():
            model.embed.W_E += change
        best.tried(model, loss, 10)
    best.put_back(model)
    assert best.found == {"step": 10, "loss": 1.0}
    assert torch.equal(model.embed.W_E, first + 1)


def test_the_loss_of_sums_is_of_the_tokens_asked_for():
    drawn = TASK.draw(30, np.random.default_rng(0), digits=3, start=2)
    batch = batch_of(drawn)
    said = MODEL.log_probs(batch).detach().gather(-1, batch.targets[..., None])[..., 0]
    assert loss_of(MODEL, drawn) == pytest.approx(-float((said * batch.weights).sum() / batch.weights.sum()), rel=1e-5)


def refused(*_, **__):
    raise AssertionError("trained again")


def test_a_run_goes_on_without_training_again(done, monkeypatch):
    numbers, folder = done
    (folder / "numbers.json").unlink()
    monkeypatch.setattr(addition_training, "_trained", refused)
    monkeypatch.setattr("nextlens.analyses.addition_run.draw", lambda *results: None)
    again = run(TINY, folder, n_jobs=1, resume=True)
    for name in ("lengths", "heads", "carry", "ablation", "swapped_ids", "position_table"):
        assert again[name] == numbers[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"lengths": (10, 60)},
            "digits=60 need 63 positions and n_positions=48; the longest operands that fit have 45",
        ),
        ({"select": 46}, "digits=46 need 49 positions and n_positions=48; the longest operands that fit have 45"),
        ({"select": 0}, "select=0 must be at least 2"),
        ({"start": 30}, "start=30 must lie between 1 and 6"),
        ({"lengths": (20, 10)}, r"lengths=\(20, 10\) must be whole numbers of 2 or more, growing"),
        ({"digits": 0}, "digits=0 must be at least 1"),
        ({"learning_rate": float("inf")}, "learning_rate=inf must be finite"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\) must hold"),
    ],
)
def test_wrong_recipes_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        AdditionRecipe(**changes)


def test_a_recipe_says_its_command_and_the_command_line_refuses_in_one_sentence(tmp_path):
    assert AdditionRecipe().command == "nextlens addition"
    changed = replace(AdditionRecipe(), post_normalisation=False, lengths=(5,), steps=7)
    assert changed.command == "nextlens addition --lengths 5, --no-post-normalisation --steps 7"
    asked = CliRunner().invoke(nextlens, ["addition", "--n-positions", "20", "--out", str(tmp_path / "x")])
    assert "longest operands that fit have 17" in str(asked.exception)
    assert not (tmp_path / "x").exists()


def test_heat_maps_draw_each_matrix_and_refuse_what_does_not_fit():
    display = HeatMapsDisplay(maps={"a": [[0.0, 1.0]], "b": [[-1.0, 2.0]]}, columns=["x", "y"]).plot()
    assert display.artists_["b"].get_array().tolist() == [[-1.0, 2.0]]
    assert display.artists_["b"].norm.vcenter == 0
    for how, said in (
        ({"maps": {}}, "maps is empty"),
        ({"maps": {"a": [[1.0]], "b": [[1.0, 2.0]]}}, "maps\\['b'\\] has shape"),
        ({"maps": {"a": [[1.0]]}, "rows": ["x", "y"]}, "rows has 2 labels; the maps have 1"),
        ({"maps": {"a": [[1.0]]}, "marked": {"c": [[True]]}}, "marked\\['c'\\]"),
    ):
        with pytest.raises(ValueError, match=said):
            HeatMapsDisplay(**how)


def test_bars_draw_every_seed_and_refuse_what_does_not_fit():
    display = BarsDisplay(bars={"0": {"a": [1.0, 0.5], "b": [0.2]}, "1": {"a": [0.1, 0.3], "b": [0.4]}}).plot()
    assert display.artists_["1", "a"].get_offsets()[:, 0].tolist() == [0.1, 0.3]
    for bars in ({}, {"0": {"a": [1.0]}, "1": {"b": [1.0]}}):
        with pytest.raises(ValueError, match="the same in every group"):
            BarsDisplay(bars=bars)


def test_batches_are_of_one_length_and_their_sequences_distributed_as_drawn_alone():
    task = Addition(digits=3)
    rng, lengths = np.random.default_rng(0), []
    for _, batch in zip(range(200), task.batches(2, rng), strict=False):
        assert (batch.tokens != 14).all()
        row = batch.tokens[0].numpy()
        plus = int(np.flatnonzero(row == PLUS)[0])
        first, second = row[1:plus], row[plus + 1 : 2 * plus]
        lengths.append([max(1, len(np.trim_zeros(part, "f"))) for part in (first, second)])
    counts = xr.DataArray(np.histogram2d(*np.array(lengths).T, bins=[np.arange(0.5, 4)] * 2)[0] / 200)
    assert counts.values == pytest.approx(np.full((3, 3), 1 / 9), abs=0.09)
