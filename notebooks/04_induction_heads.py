# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Induction heads, from the phase change to an ablation
#
# A transformer of two layers of attention reads random tokens that repeat with a period it is not told. Only its own
# context tells it what comes next. Heads that look for what followed an earlier copy of the current token and copy it
# are called induction heads (Olsson et al. 2022, arXiv:2209.11895). `STEPS` sets the length of training.

# %%
import os
from functools import partial

import numpy as np
import torch

from nextlens.analyses.displays.ablation import AblationDisplay
from nextlens.analyses.displays.heads import HeadsDisplay
from nextlens.analyses.displays.phase_change import PhaseChangeDisplay
from nextlens.analyses.head_ablation import head_ablation
from nextlens.analyses.induction_heads import (
    found_heads,
    head_scores,
    in_context_gain,
    in_context_score,
    loss_by_position,
)
from nextlens.analyses.induction_training import best_loss, moments, phase_change
from nextlens.models.bridge import Bridged
from nextlens.models.tasks import RepeatedTokens
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 500))
task, n_ctx = RepeatedTokens(32, shortest=8, longest=32), 64
drawn = task.draw(2, 20, np.random.default_rng(0))
drawn.tokens.values, drawn.period.values

# %% [markdown]
# ## What is there to be learned
# The best predictor is known exactly: it weighs every period by how well it fits. Early tokens cost log 32 nats; once
# a period has shown itself, the next token is certain.

# %%
followed = task.sample(128, n_ctx + 1, np.random.default_rng(2))
best = best_loss(task, followed)
possible = in_context_gain(best, task)
print("least possible loss by position, nats:", best[::8].round(3))
print("in-context gain that is possible:", round(possible, 3))

# %% [markdown]
# ## Train two layers, and one
# Losses of early tokens (within the shortest block) and of late ones (beyond the longest) are followed, and the heads
# of the two-layer model with them.

# %%
curves, heads, models = {}, [], {}
for name, n_layers in (("two layers", 2), ("one layer", 1)):
    config = TransformerConfig(
        n_tokens=32, n_layers=n_layers, n_heads=4, d_head=16, d_mlp=0, n_ctx=n_ctx, positions="learned"
    )
    model = models[name] = Transformer(config)
    due, seen = set(moments(steps).tolist()) - {0}, []
    for step in train(
        model,
        task.batches(64, n_ctx + 1, np.random.default_rng(0)),
        steps=steps,
        optimiser=partial(torch.optim.Adam, lr=1e-2, fused=True),
        schedule=warmup_cosine(steps, warmup=min(50, steps - 1)),
    ):
        if step.index + 1 in due:
            seen.append((step.index + 1, loss_by_position(model, followed)))
            if n_layers == 2:
                heads.append(head_scores(model, rng=np.random.default_rng(5)).value.values)
    curves[name] = np.array([loss for _, loss in seen])
taken, heads = np.array([at for at, _ in seen]), np.array(heads)
for name, curve in curves.items():
    gain = [in_context_gain(loss, task) for loss in curve]
    print(f"{name}: gain {gain[-1]:.3f} of {possible:.3f}; Olsson's score {in_context_score(curve[-1]):.3f};", end=" ")
    print("phase change:", phase_change(taken, gain, possible))

# %%
change = PhaseChangeDisplay(
    steps=taken,
    early={name: [curve[:, : task.shortest - 1].mean(1)] for name, curve in curves.items()},
    late={name: [curve[:, task.longest - 1 :].mean(1)] for name, curve in curves.items()},
    best=float(best[task.longest - 1 :].mean()),
    heads={"prefix matching,\nlayer 1": heads[:, 0, 1].T, "previous token,\nlayer 0": heads[:, 1, 0].T},
    quantity="score of each head",
).plot()

# %% [markdown]
# ## Every head, beside chance
# On random tokens said twice. Framed: prefix matching of 0.3 or more.

# %%
model = models["two layers"]
scores = head_scores(model, n_sequences=32, rng=np.random.default_rng(4))
maps = HeadsDisplay(
    scores={str(name): scores.value.sel(score=name).values for name in scores.score.values},
    chance={str(name): float(scores.chance.sel(score=name)) for name in scores.score.values},
    marked=found_heads(scores),
).plot_grid()

# %% [markdown]
# ## Without the heads found
# Their outputs are replaced by their means over other sequences. The control is as many other heads. Drawn from all
# others they often hold a previous-token head, which the induction heads read, and then the gain goes with them; so
# those outside this circuit of two layers are ablated too: as many, where so many are left, and all at once.

# %%
rng = np.random.default_rng(3)
tokens, reference = (task.sample(256, n_ctx + 1, rng) for _ in range(2))
ablation = head_ablation(model, task, scores, tokens, reference, rng=rng)
bars = AblationDisplay(
    removed={str(name): [float(ablation.removed.sel(ablated=name))] for name in ablation.ablated.values},
    claimed=[str(name) for name in ablation.ablated.values if name == "induction heads"],
).plot()

# %%
ablation[["gain", "removed", "removed_most", "sets"]].to_dataframe().round(3)

# %% [markdown]
# ## The same scores for any model
# `head_scores` asks for a `Hooked` model, so a checkpoint of someone else's will do; here it is our own behind
# TransformerLens's bridge.

# %%
bridged = head_scores(Bridged(model.to_bridge()), n_sequences=32, rng=np.random.default_rng(4))
print("largest difference:", float(np.abs(bridged.value - scores.value).max()))

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that *few* heads do it: in a small model trained on nothing else most heads of the second layer become
#   induction heads, and others picked at random are mostly of the first layer, which these read. That random heads
#   can be spared is not true here; that heads outside the circuit can be is.
# - Not that the model needs them in *language*: these sequences can be predicted by nothing but repetition.
# - Not that a high prefix-matching score *is* an induction head: it says where a head looks, and copying what it
#   says; only the ablation says whether that counts.
# - Not that phase changes are alike: this is one seed. `nextlens induction` runs four, each with its control.
