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
# # A tour in five minutes
#
# nextlens asks one question: *what does next-token prediction build inside a model?* This notebook shows the
# few types that every answer is made of. Nothing is downloaded; `STEPS` in the environment sets how long we train.

# %%
import os

import numpy as np

# %% [markdown]
# ## A process whose insides are known
# A hidden Markov process says tokens. An ideal observer holds a *belief*: the law of the hidden state, given what
# has been read. `beliefs[b, t]` is the belief after token `t`.
# %%
from nextlens.models.processes import mess3

process = mess3()
tokens = process.sample(n_sequences=3, length=6, rng=np.random.default_rng(0))
print(process, process.entropy_rate())
print(tokens[0], process.beliefs(tokens)[0].round(3), sep="\n")

# %%
from nextlens.analyses.displays.process_graph import ProcessDisplay

graph = ProcessDisplay(transition=process.transition, name="mess3").plot()

# %% [markdown]
# ## A batch: what is read, what must be said
# Position `t` has read `tokens[:, : t + 1]` and must say `targets[:, t]`.

# %%
from nextlens.models.batch import Batch

batch = Batch.from_tokens(process.sample(n_sequences=500, length=11, rng=np.random.default_rng(1)))
batch.tokens.shape, batch.targets[0].tolist(), batch.weights[0].tolist()

# %% [markdown]
# ## A kernel: the law of the next token
# A process is a kernel; so is a transformer. Whatever is a kernel has a surprisal, in bits, on the same batch.

# %%
from nextlens.models.recording import surprisal
from nextlens.models.transformer import Transformer, paper_mess3

model = Transformer(paper_mess3(seed=0))
print("the process itself ", float(surprisal(process, batch).mean()), "bits per token")
print("an untrained model ", float(surprisal(model, batch).mean()))

# %% [markdown]
# ## Training is a stream of steps
# The notebook watches, stops and probes; no trainer takes it over.

# %%
from nextlens.models.training import train

steps = int(os.environ.get("STEPS", 1000))
fresh = process.batches(256, length=11, rng=np.random.default_rng(2))
losses = [step.loss for step in train(model, fresh, steps=steps)]
print(f"after {steps} steps", float(surprisal(model, batch).mean()), "bits per token")

# %% [markdown]
# ## Sites: every value on its way has a name
# Names are TransformerLens's, and the model is one of its hooked modules. Reading is free; an edit is explicit.

# %%
print(len(model.sites), "sites, such as", model.sites[:4])
with model.watched("blocks.0.attn.pattern") as seen:
    model(batch)
print("attention of the last position", seen["blocks.0.attn.pattern"][:, 0, -1].mean(0).detach().numpy().round(3))

# %%
import torch

with model.edited("blocks.0.attn_out", torch.zeros_like):
    print("without the first block's attention", float(surprisal(model, batch).mean()), "bits per token")

# %% [markdown]
# ## Out of the model, labels instead of tensors
# `record` gives labelled arrays. `pair` matches rows by their labels, or refuses.

# %%
from nextlens.models.recording import beliefs, record
from nextlens.probes.samples import pair

acts = record(model, batch, ["blocks.3.resid_post"])["blocks.3.resid_post"]
X, Y, groups = pair(acts, beliefs(process, batch), groups="prefix")
acts

# %% [markdown]
# ## A probe, held out
# `groups="prefix"`: rows that have read the same tokens are never on both sides of a split. The same protocol on
# an untrained twin says what the input alone gives.

# %%
from nextlens.probes.belief import held_out

twin = record(model.untrained(), batch, ["blocks.3.resid_post"])["blocks.3.resid_post"]
X_twin, _, _ = pair(twin, beliefs(process, batch), groups="prefix")
probe = held_out(X, Y, groups)
print("R² trained", round(probe.r2, 4), "  untrained twin", round(held_out(X_twin, Y, groups).r2, 4))

# %%
from nextlens.analyses.displays.simplex import SimplexDisplay

cloud = SimplexDisplay(truth=Y, guess=probe.prediction).plot_row()

# %% [markdown]
# ## A checkpoint is one file
# safetensors with a JSON account of what made it; nothing unpickles.

# %%
import tempfile

from nextlens.models.checkpoints import load, recipe, save

with tempfile.TemporaryDirectory() as folder:
    path = save(folder, model, made_by={"process": process.name, "steps": steps})
    print(recipe(path)["made_by"], float(surprisal(load(path), batch).mean()))

# %% [markdown]
# ## What not to conclude
# The R² above is of one seed, a short run and a small sample. It does not show that the model *uses* what the probe
# reads, and on this process an affine map of the next-token law gives the belief exactly, so it cannot show that
# more than the next token is held. Do not conclude either from this page: the next notebook prints the nulls.
