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
# # Registers: what do they know of the future?
#
# MuToR (Gerontopoulos et al. 2025, arXiv:2505.10518) puts a register behind every token and asks it for the token `d`
# ahead. All registers are one token; only the position that a register claims says how far it is to look. Tokens do
# not look at registers, so a model trained with them is used without. `STEPS` sets the length of training.

# %%
import os
from functools import partial

import numpy as np
import pandas as pd
import torch

from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.next_latent import kl_to_exact
from nextlens.analyses.objectives_future import future_tokens
from nextlens.analyses.registers import register_horizon
from nextlens.models.batch import Batch
from nextlens.models.objectives.registers import WithRegisters, interleave_registers
from nextlens.models.processes.zoo import mess3
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 1200)) // 3
process, length, ahead = mess3(alpha=0.85, x=0.05), 16, 4
register = process.n_tokens
process

# %% [markdown]
# ## A batch with registers
# Six tokens, registers that look two ahead. A register claims the position of the token that would say its target
# anyway; it looks at what its token looks at, and at itself.

# %%
batch = Batch.from_tokens([[0, 1, 2, 0, 1, 2]])
inside = interleave_registers(batch, register=register, ahead=torch.full((1, 5), 2), weight=0.5)
pd.DataFrame(
    {
        "read": inside.tokens[0],
        "to say": inside.targets[0],
        "position": inside.positions[0],
        "weight": inside.weights[0],
    }
).T

# %% [markdown]
# ## Two models, with and without
# A slow process, so that there is a future to know. The model trained on the next token has the same row for the
# register, which nothing has ever taught: that is the control.

# %%
config = TransformerConfig(n_tokens=4, n_layers=2, n_heads=4, d_model=64, n_ctx=length, positions="rotary")
tokens = process.sample(256, length + 1, np.random.default_rng(1))
models = {}
for name in ("next-token", "registers"):
    words = process.batches(64, length + 1, np.random.default_rng(0), tree=False)
    if name == "registers":
        words = WithRegisters(words, register=register, ahead=ahead, weight=0.3, rng=np.random.default_rng(2))
    adam = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0, fused=True)
    *_, last = train(Transformer(config), words, steps=steps, optimiser=adam)
    models[name] = last.model
    print(f"{name:12s} KL of the next token to the exact law {kl_to_exact(last.model, process, tokens):.5f} nats")

# %% [markdown]
# Tokens say the same whether registers stand among them or not.

# %%
plain = Batch.from_tokens(tokens[:8])
among = interleave_registers(plain, register=register, ahead=torch.full_like(plain.tokens, 3), weight=0.5)
with torch.no_grad():
    difference = models["registers"](among)[:, among.tokens[0] != register] - models["registers"](plain)
print("largest difference of logits:", float(difference.abs().max()))

# %% [markdown]
# ## The horizon of a register
# For every offset, how far its prediction is from the exact law, beside an untrained register and the law of a token
# of which nothing is known. And how much of the belief `b_t T^(d-1)` can be read off its final state.

# %%
horizons = {name: register_horizon(model, process, tokens, ahead) for name, model in models.items()}
for name, found in horizons.items():
    print(f"{name:12s} R² of the belief ahead, by offset", found.r2.values.round(3))
CurvesDisplay(
    along=np.arange(1, ahead + 1),
    values={
        "trained register": np.diag(horizons["registers"].kl),
        "untrained register": np.diag(horizons["next-token"].kl),
    },
    references={"law of any token": horizons["registers"].marginal.values},
    xlabel="tokens ahead",
    ylabel="KL to the exact law (nats)",
    yscale="log",
).plot()

# %% [markdown]
# ## It is the position that says how far
# The same registers, the same tokens, the same mask: only their position ids are moved. Rows are the offset claimed,
# columns the law that the prediction is compared with, in nats. In each column the smallest is on the diagonal: the
# register that claims the right offset is nearest. By rows this need not be so, laws further ahead being flatter: here
# claims of 3 and 4 are nearer the law one before their own.

# %%
moved = horizons["registers"].kl
pd.DataFrame(moved.values, moved.claimed.values, moved.offset.values).round(4)

# %% [markdown]
# ## And the tokens themselves?
# Registers vanish after training. If they have taught the tokens to look ahead, probes of the tokens' own states
# should know more of the future: KL to the exact law by offset, in nats, of affine probes fitted to exact laws; and
# that of one law at all places, which is what is reached by knowing nothing.

# %%
offsets = range(1, ahead + 1)
known = {name: future_tokens(model, process, tokens, offsets) for name, model in models.items()}
rows = {name: {d: at["probe"] for d, at in found.items()} for name, found in known.items()}
rows["law of any token"] = {d: at["constant"] for d, at in known["registers"].items()}
pd.DataFrame(rows).T.round(5)

# %% [markdown]
# ## What you may not conclude
# One seed and one small process, whose future is a shrunken present: the belief ahead is here an affine map of the
# belief, so that a high R² of the one does not tell it from the other. A register that follows its position in this
# test does so where it was trained to; it says nothing of offsets that it never had. `nextlens objectives hmm` compares
# several seeds.
