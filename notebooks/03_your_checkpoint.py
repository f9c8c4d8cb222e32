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
# # Your checkpoint
#
# One call reads a text with a model and gives the numbers of every instrument, each beside its null. Here the model
# is a small one of our own, trained for a moment on the bytes of one scene of Shakespeare, so that nothing has to be
# downloaded; `STEPS` sets how long. `CHECKPOINT` in the environment puts your own in its place: a folder of nextlens,
# or a Hugging Face directory.

# %%
import os
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from nextlens.analyses.checkpoint import report
from nextlens.analyses.checkpoint_passage import PASSAGE, SOURCE
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Bytes

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 300))
print(SOURCE)

# %% [markdown]
# ## A model to look at
# It is trained on the second half of the scene and read on the first, which it has never seen. Not for long: with
# `STEPS=1000` it knows the one half by heart, and is worse on the other.

# %%
held_out, seen = PASSAGE[: len(PASSAGE) // 2], PASSAGE[len(PASSAGE) // 2 :]
tokens, rng = Bytes().encode(seen), np.random.default_rng(0)
starts = rng.integers(len(tokens) - 64, size=(steps, 16))
batches = (Batch.from_tokens(np.stack([tokens[at : at + 65] for at in row])) for row in starts)
small = Transformer(TransformerConfig(n_tokens=256, n_layers=2, n_heads=4, d_model=64, d_mlp=128, n_ctx=64))
schedule = warmup_cosine(steps, warmup=min(100, steps // 10))
adam = partial(torch.optim.Adam, lr=3e-3, fused=True)
losses = [float(step.loss) for step in train(small, batches, steps=steps, optimiser=adam, schedule=schedule)]
print(f"loss on what it is trained on: {losses[0] / np.log(2):.2f} -> {losses[-1] / np.log(2):.2f} bits per byte")

# %% [markdown]
# ## Any model is loaded in one line
# Nothing is unpickled, and no code of a checkpoint is run.

# %%
given = os.environ.get("CHECKPOINT") or checkpoints.save(Path(mkdtemp()) / "small", small)
model = checkpoints.load(given)
print(type(model).__name__, f"{model.n_tokens} tokens, {len(model.sites)} sites")

# %% [markdown]
# ## The report
# It shows itself. `found.save(folder)` writes it as one page with its figures and `numbers.json`; on the command
# line it is `nextlens checkpoint PATH --text FILE`.

# %%
found = report(model, held_out, name="a small model of bytes", source="the first half of the scene, held out")
found

# %% [markdown]
# ## Every number is there
# With its unit, its interval over blocks of the text, and its null.

# %%
loss = found.numbers["loss"]
print("bits per byte", loss["bits_per_byte"])
for name, null in loss["nulls_bits_per_token"].items():
    print(f"  {name}: {null['value']:.3f}")

# %% [markdown]
# ## And every figure is an object
# It holds its numbers, and can be drawn on axes of yours.

# %%
lens = found.displays["lens_loss"].plot()
lens.values

# %% [markdown]
# ## What not to conclude
# Do not conclude from such a page any of four things.
# - Not that a model is better because its bits per *token* are fewer: that depends on its vocabulary. Compare bits per
#   byte, on the same text, and look at the interval, which speaks of this text alone.
# - Not that a layer knows nothing of the next token because the *logit lens* reads nothing there: the lens knows one
#   way of reading, the model's last.
# - Not that a model *uses* what a probe finds, or that a head *does* what its pattern suggests: nothing intervenes.
# - Not that this small model has learned English: it was trained on a few thousand bytes, and beats counting pairs
#   of bytes by little, if at all. Read every score beside its null.
