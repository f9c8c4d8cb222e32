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
# # Language models as objects that run
#
# A process, an n-gram, a transformer and what is made of them in deployment are one thing: a kernel, which sends a
# prefix to a law of the next token. On a process that is known, every measure of kernels has a closed form to be held
# against. [The page](../docs/formulation.md) states the definitions; here they run. `STEPS` sets how long the
# transformer is trained.

# %%
import os
from functools import partial
from itertools import islice

import numpy as np
import torch

from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.formulation import accuracy, calibration, deployed, rows_of
from nextlens.analyses.formulation_costs import cost, counted_flops
from nextlens.analyses.formulation_memory import exact_influence, exact_memory
from nextlens.analyses.formulation_tokens import table_said, tokenization_table
from nextlens.models.batch import Batch
from nextlens.models.deployment import Nucleus, Tempered, TopK
from nextlens.models.merges import Merges
from nextlens.models.processes import markov, mess3
from nextlens.models.processes.information import excess_entropy
from nextlens.models.tilted import Tilted
from nextlens.models.tokenizations import TokenChain, canonical_rate, cover, marginal, roundtrip_rate
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 1000))
rng = np.random.default_rng(0)

# %% [markdown]
# ## Encoding
# Decoding undoes encoding; encoding does not undo decoding. So a text has many tokenizations, and a token kernel
# gives the text the probability of all of them.

# %%
vocabulary = Merges.trained("abcabcababc", 2)
print(vocabulary.pieces, vocabulary.encode("abcab"), roundtrip_rate(vocabulary, ["abc", "cab"]))
print("canonical:", canonical_rate(vocabulary, [vocabulary.encode("abcab"), [0, 1, 2]]))
chain = TokenChain.counted(vocabulary.encode("abcabcababc" * 20), vocabulary.n_tokens)
print("canonical", round(chain.log_prob(vocabulary.encode("abcab").tolist()), 4))
print("every tokenization", round(marginal(chain, vocabulary.pieces, "abcab"), 4))
print("every text that begins so", round(cover(chain, vocabulary.pieces, "abcab"), 4))

# %% [markdown]
# A prompt ends inside a token as often as between two. On a chain of characters that is known, the law of the next
# character is far off after the canonical tokens of a prompt, and right when all coverings are summed.

# %%
print(table_said(tokenization_table(rng, merges=(0, 2), characters=10_000, texts=5, samples=100, prompts=20)))

# %% [markdown]
# ## Kernels
# The process itself; what it says if it remembers one token; and a transformer that is trained on it.

# %%
process = mess3()
config = TransformerConfig(n_tokens=3, n_layers=2, d_model=32, n_ctx=16, seed=0)
model = Transformer(config)
batches = process.batches(64, length=17, rng=np.random.default_rng(1))
adam = partial(torch.optim.Adam, lr=3e-3)
losses = [step.loss for step in islice(train(model, batches, steps=steps, optimiser=adam), steps)]
kernels = {"exact": process, "transformer": model, "bigram": markov(process, 1)}

# %% [markdown]
# ## Accuracy and calibration
# Loss, its excess over the entropy rate, the divergence from the process; and z - h, surprisal less entropy: mean 0
# if the kernel knows how unsure it is, white if it misses nothing. The bigram passes the first and fails the second.

# %%
tokens = process.sample(300, 17, rng)
for name, kernel in kernels.items():
    rows = rows_of(kernel, tokens, truth=process, skip=6)
    measured = accuracy(rows, process.entropy_rate().value) | calibration(rows)
    shown = ("loss", "excess", "divergence", "z - h", "z - h, lag 1", "top-label error")
    print(f"{name:12s}", *(f"{one} {measured[one].value:+.4f}  " for one in shown))

# %% [markdown]
# ## Memory
# What is gained by seeing more than the last k tokens. For the process these gains add up to its excess entropy.

# %%
memories = {name: exact_memory(kernel, process, 8) for name, kernel in kernels.items()}
print("excess entropy", round(excess_entropy(process).value, 6))
print({name: round(found.excess, 6) for name, found in memories.items()})
CurvesDisplay(
    along=range(8),
    values={name: np.maximum(found.gain, 1e-7) for name, found in memories.items()},
    references={"rounding": 1e-7},
    xlabel="last tokens seen, k",
    ylabel="gain of seeing all, nats",
    yscale="log",
).plot()

# %% [markdown]
# ## Robustness
# How far another token, k back, moves the next law; the mean over all words, and the worst case.

# %%
influences = {name: exact_influence(kernel, process, 6, 6) for name, kernel in kernels.items()}
print({name: round(found.total, 3) for name, found in influences.items()}, "are the sums of worst cases")
CurvesDisplay(
    along=range(1, 7),
    values={name: np.maximum(found.mean, 1e-7) for name, found in influences.items()},
    references={"rounding": 1e-7},
    xlabel="token replaced, k back",
    ylabel="total variation, mean",
    yscale="log",
).plot()

# %% [markdown]
# ## Deployment
# A decoding rule sends a kernel to a kernel. Cutting a law off at mass Z moves it by `-log Z`; how far it has moved is
# asked after what the process says, and after what the deployed kernel says by itself ("own").

# %%
maps = {
    "temperature .5": partial(Tempered, temperature=0.5),
    "top-k 2": partial(TopK, k=2),
    "top-p .8": partial(Nucleus, p=0.8),
}
for name, row in deployed(process, maps, tokens, rng, truth=process, skip=6, said=8).items():
    print(f"{name:16s}", *(f"{one} {found.value:.4f}  " for one, found in row.items()))

# %% [markdown]
# Reinforcement has an optimum that can be listed on short strings: `π ∝ p e^{r / β}`. Here the reward is the sum of
# the tokens; the nearer β is to 0, the more the policy gives up of the process.

# %%
words, reward = process.sample(200, 6, rng), partial(torch.sum, dim=1, dtype=torch.float64)
for beta in (4.0, 1.0, 0.25):
    policy = Tilted(process, reward, beta, 6)
    rows = rows_of(policy, words, truth=process)
    print(f"beta {beta:4.2f}: divergence from the process {rows.against['divergence'].mean():.4f} nats a token")

# %% [markdown]
# ## Efficiency
# The formula and PyTorch's counter agree to the last operation.

# %%
spent = cost(model, tokens[0], 16)
counted = counted_flops(model, Batch.from_tokens(tokens[:1]))
print(f"{spent.flops:,} by the formula, {counted:,} counted; {spent.cache:,} bytes of keys and values")


# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that a *calibrated* model is right: the bigram is calibrated, and its z - h is not white.
# - Not that memory *used* is memory well used: gains are those of the kernel's own laws, whatever they are worth.
# - Not that sums of worst cases above 1 mean *many stationary laws*: the condition is sufficient only.
# - Not that bits per byte show what tokens do: spurious mass hardly moves them, the boundary of a prompt moves a lot.
