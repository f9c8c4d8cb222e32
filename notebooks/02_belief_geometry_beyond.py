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
# # Beyond the simplex: what a belief probe can and cannot show
#
# A high R² on Mess3 is where the story begins. Here: which processes can test which claim, what is left of "the
# belief is spread over layers" on prefixes never seen, beliefs that one attention layer can add up, beliefs of
# quantum processes, factors, mixtures, and whether the model *uses* what is read. One seed each, small enough to run
# while you read; `nextlens belief --help` lists the same questions with seeds and intervals. `STEPS` sets how long.

# %%
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from nextlens.models.processes import PROCESSES, process_by_name
from nextlens.models.processes.futures import degeneracies, future_rank
from nextlens.models.training import train, warmup_cosine

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 1500))
adam = partial(torch.optim.Adam, lr=3e-3, fused=True)
schedule = warmup_cosine(steps, warmup=min(100, steps - 1))

# %% [markdown]
# ## Which process can test which claim
# The rank of the next-token law says how many dimensions of belief it shows. Where that is all of them, the belief is
# an affine function of the next-token law, and no linear probe can find more than the prediction itself.

# %%
shown = {
    name: {horizon or "all": future_rank(process_by_name(name), horizon) for horizon in (1, 2, None)}
    for name in ("mess3", "even", "bloch_walk", "moon", "zero_one_random", "frdn", "parentheses", "rrxor")
}
pd.DataFrame(shown).T.rename(columns="dimensions shown by {} tokens".format)

# %%
pairs = degeneracies(process_by_name("rrxor"))
print(f"{len(PROCESSES)} processes by name; RRXOR has {len(pairs.beliefs)} beliefs,")
print(f"and {len(pairs)} pairs of different beliefs with one next-token law")

# %% [markdown]
# ## RRXOR: spread over layers?
# The published protocol fits 768 features to 1,046 distinct prefixes and scores the same rows. Noise of that width is
# the null. Then folds by prefix, by last three tokens, and by belief state.

# %%
from nextlens.analyses.displays.spread import SpreadDisplay
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.spread_over_layers import spread_over_layers
from nextlens.models.processes import rrxor
from nextlens.models.transformer import Transformer, TransformerConfig, paper_mess3, paper_rrxor

rrxor_model = Transformer(replace(paper_rrxor(), d_model=int(os.environ.get("WIDTH", 128))))
stream = rrxor().batches(64, 11, np.random.default_rng(0))
for _ in train(rrxor_model, stream, steps=steps, optimiser=partial(adam, lr=1e-3), schedule=schedule):
    pass
rrxor_prefixes = Prefixes.of(rrxor(), 10)
print("loss over optimum", excess_loss(rrxor_model, rrxor_prefixes).attrs["loss_over_optimum"])
spread = spread_over_layers(rrxor_model, rrxor_model.untrained(), rrxor_prefixes)
spread.r2.sel(model="trained").to_pandas().T.round(3)

# %%
figure = SpreadDisplay(scores={"RRXOR, context 10": spread.r2.expand_dims("seed")}).plot()

# %% [markdown]
# ## Constrained beliefs
# One attention layer adds one displacement a token: `r_1`. Mess3 at (.05, .85) is where it parts from the belief.

# %%
from nextlens.analyses.constrained_attention import attention_circuit
from nextlens.analyses.constrained_beliefs import affine_control, constrained_geometry
from nextlens.analyses.displays.constrained import ConstrainedDisplay
from nextlens.models.processes import mess3

one_layer = Transformer(replace(paper_mess3(), n_layers=1, d_head=64, n_ctx=9))
stream = mess3().batches(128, 10, np.random.default_rng(0))
for _ in train(one_layer, stream, steps=steps, optimiser=adam, schedule=schedule):
    pass
mess3_prefixes = Prefixes.of(mess3(), 9)
constrained = constrained_geometry(one_layer, one_layer.untrained(), mess3_prefixes)
circuit = attention_circuit(one_layer, mess3_prefixes)
print("an affine map of r_1 alone gives the belief with R²", affine_control(mess3_prefixes).r2.values.round(3))
constrained.scores.r2.sel(predictor="probe").to_pandas().round(4)

# %%
figure = ConstrainedDisplay(
    belief=constrained.belief,
    r_1=constrained.r_1,
    read_belief=constrained.read_belief,
    read_r_1=constrained.read_r_1,
    weights=constrained.weights,
    pattern=circuit.pattern.values,
    kernel=circuit.kernel.values,
    decay=float(circuit.zeta),
).plot_all()

# %% [markdown]
# ## A quantum process
# The Bloch walk: a qubit measured along z or x. Its belief is a point in a disc, though no finite hidden Markov model
# of three states makes it. The rival target is what an observer of the last three tokens would believe.

# %%
from nextlens.analyses.belief_geometry import belief_geometry
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.models.processes import bloch_walk

quantum = Transformer(TransformerConfig(n_tokens=4, n_layers=4, n_heads=4, d_model=64, n_ctx=6))
stream = bloch_walk().batches(128, 7, np.random.default_rng(0))
for _ in train(quantum, stream, steps=steps, optimiser=adam, schedule=schedule):
    pass
found = belief_geometry(quantum, quantum.untrained(), Prefixes.of(bloch_walk(), 6))
found.scores.r2.to_pandas().round(3)

# %%
found.nulls.r2.to_pandas().round(3)

# %%
figure = SimplexDisplay(
    truth=found.truth, guess=found.guess, untrained=found.untrained, weights=found.weights
).plot_row()

# %% [markdown]
# Read the last two nulls: the exact next-token law gives the whole belief, the model's own less than half. At this
# length of training it has not learnt the process, and the probe finds what the model has. More `STEPS` raise both.

# %% [markdown]
# ## Two worlds at once
# A mixture of three Mess3: which of them is speaking must be found out in context.

# %%
from nextlens.analyses.displays.synchronisation import PosteriorDisplay
from nextlens.analyses.synchronisation import read_components, sources

source = sources()["three_mess3"]
mixed = Transformer(TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=64, n_ctx=16))
stream = source.process.batches(64, 17, np.random.default_rng(0))
for _ in train(mixed, stream, steps=steps, optimiser=adam, schedule=schedule):
    pass
words = Prefixes.of(source.process, 16, n_words=1000)
components = read_components(mixed, mixed.untrained(), source, words)
components.scores.r2.isel(site=-1).to_pandas().round(3)

# %%
components.nulls.r2.to_pandas().round(3)

# %%
by_position = components.by_position()
figure = PosteriorDisplay(
    read=by_position.read.values,
    scores={
        "posterior": by_position["probe"].values[None],
        "untrained": by_position["untrained twin"].values[None],
    },
    uncertainty=by_position.uncertainty.values,
).plot()

# %% [markdown]
# ## Does the model use it?
# Put another context's belief in place of this one's, and compare with the law that must follow, which is exact.

# %%
from nextlens.analyses.belief_edit import belief_edit
from nextlens.analyses.belief_pairs import Pairs
from nextlens.analyses.displays.edits import EditsDisplay
from nextlens.analyses.edit_scores import edit_scores

rng = np.random.default_rng(0)
pairs = Pairs.of(Prefixes.of(mess3(), 8), 500, rng)
edits = edit_scores(belief_edit(one_layer, pairs, ahead=2, rng=rng), rng).sel(step=1)
edits.kl.to_pandas().round(4)

# %%
kl = {str(name): edits.kl.sel(edit=name).values for name in edits.edit.values}
figure = EditsDisplay(
    sites=[str(site) for site in edits.site.values],
    edits={name: kl[name] for name in ("covariance", "minimum norm")},
    controls={name: kl[name] for name in ("none", "random direction", "wrong belief")},
).plot()

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of five things.
# - Not, from the step between one layer and all of them in sample, that the belief is spread over layers: noise of
#   that width makes most of the same step. What is left under folds is the finding.
# - Not, from a site that gives `r_1`, that it does not hold the belief: an affine map of either gives most of the
#   other. Only what each tells beyond the other separates them.
# - Not, from a high R² on a quantum process, that a model is quantum: the belief of the Bloch walk is an affine
#   function of the next-token law, so that predicting well is enough.
# - Not, from an edit that works, that this is how the model computes: it shows that the rest of the network reads
#   the direction, at that position and that site.
# - One seed proves nothing: the commands of `nextlens belief` give intervals over several.
