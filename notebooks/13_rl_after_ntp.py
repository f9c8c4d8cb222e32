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
# # What reinforcement changes after next-token training
#
# Of the answers to a parity of bits, a quarter go along the chain of prefix parities and the rest say the parity at
# once. Next-token training learns the chain, and yet answers wrongly when it is greedy; reinforcement repairs that in a
# few steps (Tsilivis et al. 2025, arXiv:2510.11495). Does it create a computation, or only decide to use one? `STEPS`
# sets the length of training.

# %%
import copy
import os
from functools import partial

import numpy as np
import torch

from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.reinforcement import ReinforcementDisplay
from nextlens.analyses.parity_reinforcement import measured, steered, what_changed
from nextlens.models.objectives.on_policy import OnPolicy, SelfTaught
from nextlens.models.objectives.policy_gradient import PolicyGradient
from nextlens.models.tasks.parity import Parity, Stepwise, after_selection, probability_of_stopping
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 600))
task = Parity(n_bits=10, p_chain=0.25)
for row in task.draw(4, np.random.default_rng(4)).tokens.values:
    print(task.spelled(row))

# %% [markdown]
# ## What theory says
# Who can follow a chain but not see the parity at once has an exact best predictor. It says END after a first token
# that fits with (1 - p) / (1 + p), so below p = 1/3 its greedy answer is short, and a coin flip.

# %%
for share in (0.25, 0.3, 0.4):
    best = measured(Stepwise(Parity(10, share)), Parity(10, share), np.random.default_rng(0), n_prompts=300)
    print(share, f"P(END) {probability_of_stopping(share):.3f};", best.to_pandas().round(3).to_dict())

# %% [markdown]
# ## Next-token training

# %%
config = TransformerConfig(
    n_tokens=4, n_layers=2, n_heads=4, d_model=64, d_mlp=128, n_ctx=22, activation="gelu", seed=0
)
before = Transformer(config)
for _ in train(
    before,
    task.batches(64, np.random.default_rng(1)),
    steps=steps,
    optimiser=partial(torch.optim.Adam, lr=2e-3, fused=True),
    schedule=warmup_cosine(steps, warmup=min(50, steps // 10)),
    clip=1.0,
):
    pass
measured(before, task, np.random.default_rng(2)).to_pandas().round(3)

# %% [markdown]
# ## Then GRPO, from the same weights
# Eight answers to each of 32 prompts, rewarded if their last token is the parity.

# %%
after, rows = copy.deepcopy(before), [measured(before, task, np.random.default_rng(2))]
source = OnPolicy(after, task, np.random.default_rng(3), n_prompts=32, group=8)
adam = partial(torch.optim.Adam, lr=3e-4, fused=True)
taken = min(40, steps // 15)
for step in train(after, source, steps=taken, objective=PolicyGradient(), optimiser=adam, clip=1.0):
    if (step.index + 1) % 5 == 0:
        rows.append(measured(after, task, np.random.default_rng(2)))
course = CurvesDisplay(
    along=np.arange(len(rows)) * 5,
    values={
        "greedy accuracy": [float(row.greedy_accuracy) for row in rows],
        "long, sampled": [float(row.sampled_long) for row in rows],
        "P(END | fits)": [float(row.stop) for row in rows],
    },
    references={"P(END), theory": probability_of_stopping(0.25)},
    xlabel="steps of GRPO",
    ylabel="share, probability",
).plot()

# %% [markdown]
# ## Or STaR: keep what is right, and learn it
# The share of long answers among those kept is 2q / (1 + q) of the share q that was sampled: the odds double.

# %%
selected = copy.deepcopy(before)
star = SelfTaught(selected, task, np.random.default_rng(4), rounds=3, n_samples=512, epochs=4)
for _ in train(selected, star, optimiser=adam, clip=1.0):
    pass
for sampled, kept in zip(star.sampled, star.kept, strict=True):
    print(f"sampled {sampled:.3f}, kept {kept:.3f}, 2q/(1+q) {after_selection(sampled):.3f}")
measured(selected, task, np.random.default_rng(2)).to_pandas().round(3)

# %% [markdown]
# ## What has changed
# The same long chains through both models: which parity a probe reads at each token of the chain, whether the parity of
# all bits is there at the separator, the decision to end, and how far the last state moved.

# %%
changed = what_changed(before, after, task, np.random.default_rng(5))
pair = ("before", "after")
picture = ReinforcementDisplay(
    next_parity={model: [changed.next_parity.sel(model=model, layer=1).values] for model in pair},
    full_parity={model: [float(changed.full_parity.sel(model=model, layer=1))] for model in pair},
    stop={"before": [float(rows[0].stop)], "after": [float(rows[-1].stop)]},
    theory=probability_of_stopping(0.25),
    state=[changed.state.values],
    caption=f"one seed; weights moved {float(changed.weights):.1%}",
).plot()
print("a head's largest attention to the bit to be added:", changed.aligned.max(("layer", "head")).values.round(2))

# %% [markdown]
# ## Without any reinforcement
# The state at the first token said is pushed along the difference of means of long and short answers, in the model that
# saw next tokens alone. If reinforcement is a decision, a push may stand in for it.

# %%
steered(before, task, (-1.0, 0.0, 1.0, 2.0, 4.0), np.random.default_rng(6), n_prompts=128).to_dataframe().round(3)

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that reinforcement *never* creates a computation: here the chain was learnt before, from a quarter of the data.
# - Not that the parity at the separator is *nowhere* in the model: a linear probe does not read it, no more is shown.
# - Not that the direction found is *the* decision: it is one that suffices, found by a difference of means that only
#   whether the first token fits can make.
# - Not how often it works: this is one seed. `nextlens parity` runs three, with a sweep of the share of long answers,
#   reinforcement begun too early, and STaR at a temperature at which it fails.
