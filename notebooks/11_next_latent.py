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
# # Next-latent prediction: is the final state a belief?
#
# NextLat (Teoh et al. 2025, arXiv:2511.05963) trains a transformer on two things at once: to say the next token, and
# to have a final state from which, with the next token, a small network can say the next final state. A state that
# can be moved on by what comes in is what a Bayesian observer has: a belief. Here the belief is known exactly.
# `STEPS` sets the length of training.

# %%
import os
from functools import partial

import numpy as np
import torch

from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.analyses.next_latent import (
    FINAL,
    bayesian_updater,
    equivalent_histories,
    kl_to_exact,
    latent_geometry,
)
from nextlens.models.batch import Batch
from nextlens.models.objectives.next_latent import NextLatent
from nextlens.models.objectives.next_token import next_token
from nextlens.models.processes.zoo import mess3
from nextlens.models.recording import beliefs, record
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.belief import held_out
from nextlens.probes.samples import pair

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 1200)) // 3
process, length = mess3(alpha=0.6, x=0.15), 16
tokens = process.sample(256, length + 1, np.random.default_rng(1))
process

# %% [markdown]
# ## One model for each objective
# Both have the same first weights and read the same words. The one token more than the process says belongs to
# registers, which are not used here.

# %%
config = TransformerConfig(n_tokens=4, n_layers=2, n_heads=4, d_model=64, n_ctx=3 * length, positions="rotary")
objectives = {"next-token": next_token, "next-latent": NextLatent(config.d_model, ahead=1)}
models = {}
for name, objective in objectives.items():
    words = process.batches(64, length + 1, np.random.default_rng(0), tree=False)
    adam = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0, fused=True)
    *_, last = train(Transformer(config), words, steps=steps, objective=objective, optimiser=adam)
    models[name] = last.model
    print(f"{name:12s} KL to the exact law {kl_to_exact(last.model, process, tokens):.5f} nats")

# %% [markdown]
# ## How many directions does the final state have?
# The belief of three states is a plane; with the mean, three directions. The effective rank is the exponential of the
# entropy of the normalised singular values. Beside it, how much of the belief an affine probe reads off each site.

# %%
sites = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", FINAL]
geometry = {name: latent_geometry(model, process, tokens, sites) for name, model in models.items()}
for name, found in geometry.items():
    print(f"{name:12s} effective rank {found['ranks'][-1]:5.2f}   R² of the belief by site", np.round(found["r2"], 3))
CurvesDisplay(
    along=np.arange(1, 17),
    values={name: np.maximum(found["spectrum"][:16], 1e-6) for name, found in geometry.items()},
    xlabel="direction",
    ylabel="share of singular values",
    yscale="log",
).plot()

# %% [markdown]
# ## The belief in it
# Beliefs in the triangle of the three states, and what a probe reads off NextLat's final state on words it was not
# fitted to.

# %%
batch = Batch.from_tokens(tokens)
X, Y, groups = pair(record(models["next-latent"], batch, [FINAL])[FINAL], beliefs(process, batch))
SimplexDisplay(truth=Y, guess=held_out(X.astype(float), Y, groups).prediction).plot_row()

# %% [markdown]
# ## Different histories, one belief
# Pairs of words that lead to nearly the same belief but do not agree in their last three tokens: how far apart are
# their states, compared with pairs at random?

# %%
for name, model in models.items():
    states = record(model, batch, [FINAL])[FINAL]
    print(f"{name:12s}", equivalent_histories(states, beliefs(process, batch), np.random.default_rng(2)))

# %% [markdown]
# ## Does the latent dynamics do what Bayes' rule does?
# The dynamics is given the state behind the first token, then only tokens: no transformer. A probe fitted to the
# transformer's states reads the belief off what it makes of them, up to three times the length of training.

# %%
rng, dynamics = np.random.default_rng(3), objectives["next-latent"]
updater = bayesian_updater(models["next-latent"], dynamics, process, rng, length=length, longer=3 * length)
print("R² of the next state itself", round(float(updater.next_state), 3))
print("R² of the next belief: one step", round(float(updater.one_step), 3))
print("  of a state that is not moved", round(float(updater.not_updated), 3))
print("  of one that is moved by a wrong token", round(float(updater.wrong_token), 3))
CurvesDisplay(
    along=updater.position.values + 1,
    values={
        "dynamics alone": 1 - updater.rolled_out.values,
        "transformer": 1 - updater.transformer.values,
        "state that never moves": 1 - updater.first_state.values,
    },
    xlabel="tokens read",
    ylabel="1 - R² of the belief",
    yscale="log",
).plot()

# %% [markdown]
# ## What you may not conclude
# One seed and one small process. The effective rank says how evenly directions are used and not how many there are:
# directions of little variance hardly count in it, and may still carry what matters. A probe of the belief is no
# better on NextLat's state than on the other: fewer directions is not more belief. The probe that judges the dynamics
# is held to directions that vary; one that may use them all reads the belief off the transformer's own state a little
# better, and off the state that the dynamics makes not at all. Compare models at the same loss
# before comparing what can be read off them; `nextlens objectives hmm` does, over several seeds.
