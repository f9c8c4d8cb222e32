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
# # Position coupling: sums longer than any that was trained on
#
# Digits that belong together, in both operands and in the sum, get one position id; nothing else changes (Cho et al.
# 2024, arXiv:2405.20671). A transformer of one layer is trained on sums of one to six digits. How far does it reach,
# and what in it adds and carries? `STEPS` sets the length of training.

# %%
import os
from functools import partial

import numpy as np
import torch

from nextlens.analyses.addition_heads import (
    best_heads,
    carry_probes,
    head_patterns,
    one_sum,
    without_heads,
)
from nextlens.analyses.addition_lengths import by_length, swapped_ids
from nextlens.analyses.addition_positions import id_scores, offset_preference
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.heat_maps import HeatMapsDisplay
from nextlens.models.tasks.addition import Addition
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 600))
tasks = {
    "coupled": Addition(digits=6, n_positions=32),
    "random start": Addition(digits=6, n_positions=96, places="random start"),
}
for name, task in tasks.items():
    drawn = task.of([[653, 49]], start=4)
    print(name, task.spelled(drawn.tokens.values[0]), drawn.positions.values[0].tolist())

# %% [markdown]
# ## Train with coupled ids, and with ids in a row from a random start
# Operands are padded with zeros and the sum is said backwards. Only the sum is learnt.

# %%
models = {}
for name, task in tasks.items():
    config = TransformerConfig(
        n_tokens=task.n_tokens,
        n_layers=1,
        n_heads=4,
        d_model=64,
        d_mlp=96,
        n_ctx=task.n_positions,
        activation="gelu",
        gated=True,
        normalisation="RMSNorm",
        post_normalisation=True,
        seed=0,
    )
    model = models[name] = Transformer(config)
    own = steps if name == "coupled" else steps // 3
    losses = [
        step.loss
        for step in train(
            model,
            task.batches(64, np.random.default_rng(0)),
            steps=own,
            optimiser=partial(torch.optim.Adam, lr=4e-3, fused=True),
            schedule=warmup_cosine(own, warmup=min(50, own // 10), final=0.1),
            clip=1.0,
        )
    ]
    print(f"{name}: loss {losses[-1]:.4f} nats after {own} steps")

# %% [markdown]
# ## How far
# Greedy answers, all digits right, with the end token and without. Ids begin at 4: the first and the last of the table
# are seen less often in training.

# %%
lengths = (3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 20)
found = {n: by_length(m, tasks[n], lengths, np.random.default_rng(1), start=4) for n, m in models.items()}
reach = CurvesDisplay(
    along=lengths,
    values={
        "coupled, digits": found["coupled"].exact_digits.values,
        "coupled, and the end": found["coupled"].exact.values,
        "random start, digits": found["random start"].exact_digits.values,
    },
    xlabel="digits of the operands (trained: 1 to 6)",
    ylabel="share of sums right",
).plot()

# %% [markdown]
# ## What adds and what carries
# The paper saw two patterns: attention to the two digits with the id of the digit to be said, and to the three with the
# id below. Each head's attention on either, beside a head that looks at all alike:

# %%
model, task = models["coupled"], tasks["coupled"]
scores = head_patterns(model, task, np.random.default_rng(2), digits=6, start=4)
heads = best_heads(scores)
print(scores.mass.isel(layer=0).to_pandas().round(3), "\nchance", scores.chance.values.round(3), "\n", heads)
one = one_sum(model, task, heads, task.draw(1, np.random.default_rng(3), digits=6, start=4))
maps = HeatMapsDisplay(
    maps={str(name): one.attention.sel(pattern=name).values for name in heads},
    rows=one.digit.values.tolist(),
    columns=one.token.values.tolist(),
    marked={str(name): one.expected.sel(pattern=name).values for name in heads},
    xlabel="token looked at",
    ylabel="digit of the sum said next",
    quantity="attention",
).plot()

# %% [markdown]
# ## Is it what the model uses?
# Exchange the ids of two digits of the first operand and leave the tokens where they are: if ids say what a digit is
# worth, the model adds the number that the ids spell. Then give each head its mean, and read what is carried.

# %%
print(swapped_ids(model, task, np.random.default_rng(4), digits=6, start=4).to_pandas().round(3))
groups = {name: [head] for name, head in heads.items()}
groups["the others"] = [(0, head) for head in range(4) if (0, head) not in heads.values()]
print(without_heads(model, task, groups, np.random.default_rng(5), digits=6, start=4).token.to_pandas().round(3))
probing = {"fitted": 6, "tested": (6, 12), "start": 4}
print(carry_probes(model, task, np.random.default_rng(6), **probing).accuracy.to_pandas().round(3))

# %% [markdown]
# ## What the table of positions holds
# Scores of ids alone, through the query and key weights of each head: how much more it prefers the id at each offset.

# %%
offset_preference(id_scores(model), slice(4, 28)).round(2)

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not how far it reaches in general: this is one seed of a small model, and beyond the trained lengths seeds and
#   moments of training differ much. `nextlens addition` trains three of each kind on ten digits.
# - Not that the model has learnt to *add*: it is told by ids which digits belong together. What it has learnt is a
#   digit and a carry, and where to look is given.
# - Not that a head is *the* carry: without it other digits fail too, for the mean of a head is no neutral value.
# - Not that the baselines cannot add: one layer, this training, this size.
