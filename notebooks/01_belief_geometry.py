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
# # The belief simplex in a residual stream
#
# A transformer is trained on next tokens of Mess3 only. Does its residual stream hold, linearly, what an ideal
# observer believes of the hidden state? The claim is that of Shai et al. (2024, arXiv:2405.15943); the protocol here
# holds every prefix out and prints the nulls beside the score. `STEPS` sets the length of training.

# %%
import os
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from nextlens.analyses.belief_geometry import belief_geometry, constant_mse, paper2024_mse
from nextlens.analyses.displays.emergence import EmergenceDisplay
from nextlens.analyses.displays.layers import LayersDisplay
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.analyses.emergence import emergence, emergence_at, measured_after
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.models.processes import mess3
from nextlens.models.processes.mixed_states import mixed_state_presentation, optimal_loss
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, paper_mess3

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 4000))
process, config = mess3(alpha=0.85, x=0.05), replace(paper_mess3(seed=0), d_model=int(os.environ.get("WIDTH", 64)))
config

# %% [markdown]
# ## What is there to be found
# Mess3 has no finite list of beliefs: they fill a fractal. The least possible loss falls with what has been read.

# %%
print("closes:", mixed_state_presentation(process).closed)
print("optimal loss by position, nats:", optimal_loss(process, config.n_ctx).round(5))

# %% [markdown]
# ## Train, and watch
# At moments evenly spaced on a log scale we stop and probe, on sampled prefixes.

# %%
model = Transformer(config)
followed = Prefixes.of(process, config.n_ctx, n_words=2000)
site, due = "blocks.3.hook_resid_post", set(measured_after(steps).tolist())
moments = []
for step in train(
    model,
    process.batches(256, config.n_ctx + 1, np.random.default_rng(0)),
    steps=steps,
    optimiser=partial(torch.optim.Adam, lr=5e-3, fused=True),
    schedule=warmup_cosine(steps, warmup=min(100, steps - 1)),
):
    if step.index + 1 in due:
        moments.append({"step": step.index + 1, "tokens": step.tokens, **emergence_at(model, followed, site)})

# %%
curves = emergence({0: moments})
curve_figure = EmergenceDisplay(
    tokens=curves.tokens.values,
    loss_over_optimum=curves.loss_over_optimum.values,
    mse=curves.mse.values,
    r2=curves.r2.values,
).plot()

# %% [markdown]
# ## Every prefix, held out, beside its nulls
# 88,572 prefixes, weighted by probability; each is predicted by a probe that never saw it. The untrained twin has
# the same architecture and first weights.

# %%
prefixes = Prefixes.of(process, config.n_ctx)
answer = belief_geometry(model, model.untrained(), prefixes)
print("loss over optimum", excess_loss(model, prefixes).attrs["loss_over_optimum"])
answer.scores.r2.to_pandas().round(4)

# %%
answer.nulls.r2.to_pandas().round(4)

# %%
cloud = SimplexDisplay(
    truth=answer.truth, guess=answer.guess, untrained=answer.untrained, weights=answer.weights
).plot_row()

# %%
layers = LayersDisplay(
    sites=[str(name) for name in answer.scores.site.values],
    scores={"trained": 1 - answer.scores.r2.sel(predictor="probe").values},
    nulls={
        "untrained": 1 - answer.scores.r2.sel(predictor="untrained twin").values,
        "last 4 tokens": 1 - float(answer.nulls.r2.sel(null="last 4 tokens")),
        "log next-token law": 1 - float(answer.nulls.r2.sel(null="its logarithm, exact")),
    },
    quantity="1 − R² of the belief",
    scale="log",
).plot()

# %% [markdown]
# ## The paper's own figure
# In sample, unweighted, every word at every position. The paper's notebook gives 0.00039 after a million steps.

# %%
print("MSE", paper2024_mse(model, prefixes, site).mse, "  constant predictor", constant_mse(prefixes))

# %% [markdown]
# ## Where it is missed
# R² among prefixes of each length: short prefixes are few, and each is predicted from others.

# %%
answer.r2_by_position().round(4)

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of three things.
# - Not that the model holds *more than the next token needs*: on Mess3 the belief is an affine function of the exact
#   next-token law (the null scores 1), so this process cannot tell the two apart. RRXOR can.
# - Not that the number alone is telling: a memory of the last four tokens scores about as high, and even an
#   untrained twin scores far above 0. Read the score beside its nulls, not beside 0.
# - Not that the geometry is *used*: nothing here intervenes. And one seed has no interval; `nextlens belief` runs four.
