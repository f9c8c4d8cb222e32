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
# # Does surprisal scale?
#
# "Fractal Patterns May Illuminate the Success of Next-Token Prediction" (arXiv:2402.01825) reads exponents off the
# surprisal of text: H = .70, S = .59, J = .49. The same protocol reads H = .55 and J = S = .47 of nothing at all.
# Here the measurement is laid beside what it says of series whose memory is known, and the verdict is a rule, not a
# number.

# %%
import numpy as np

from nextlens.analyses.displays.exponents import ExponentsDisplay
from nextlens.analyses.displays.scaling import ScalingDisplay
from nextlens.analyses.fractal_downstream import published, said
from nextlens.analyses.self_similarity import by_context, scaling_curves, self_similarity
from nextlens.analyses.self_similarity_reading import scored
from nextlens.analyses.self_similarity_sources import KNOWN
from nextlens.models.contexts import Truncated
from nextlens.models.processes import mess3
from nextlens.probes import fractal

rng = np.random.default_rng(0)

# %% [markdown]
# ## Series whose memory is known
# Forty documents of 1,000 values each. Beside the true H stands what R/S reads when each document has its own mean
# taken out, as is usual, and the verdict. Where all of the rule's questions are passed, it is asked once more how
# often two relaxation times of the same H would pass them in as many documents of that length; if half or more do, the
# verdict is `low-band`: a power law or a long relaxation, inconclusive.

# %%
for name, (hurst, draw) in KNOWN.items():
    rows = draw((40, 1000), rng)
    plain = fractal.rescaled_range(rows - rows.mean(1, keepdims=True), scales=fractal.log_spaced(25, 250))
    verdict = fractal.gated_verdict(fractal.pooled(rows), rng, n_shuffles=333)
    rivals = "" if verdict.mistaken is None else f" (two relaxation times pass in {verdict.mistaken:.0%})"
    print(f"{name:28s} H {hurst:.1f}   R/S {plain.value:.2f}   {verdict.outcome}{rivals}")

# %% [markdown]
# ## A model that is exact
# Surprisal z of the Mess3 process, read by its own ideal observer, is split into what the observer expected it to be,
# the entropy h of its law, and the rest, z - h. The rest is white, whatever z remembers: the observer misses nothing.

# %%
process = mess3()
tokens = process.sample(30, 1001, rng)
exact = scored(process, tokens)
found = self_similarity(exact, rng, n_shuffles=333)
print({name: found.verdict(name) for name in ("z", "h", "m")})
print("autocorrelation of z - h:", found.white.autocorrelation[:3].round(3), "±", found.white.deviation[:3].round(3))
found.data[["value", "shuffled", "phases"]].sel(series="z").to_pandas().round(3)

# %% [markdown]
# Every exponent has the same of shuffles beside it: what these read, no memory is needed for. Twins keep the spectrum,
# and with it all linear memory: what differs from them is not linear. The points behind the numbers:

# %%
names = {"z": "surprisal z", "h": "entropy h", "m": "z - h"}
display = ScalingDisplay(curves=scaling_curves(exact, found, rng), names=names).plot()

# %% [markdown]
# ## A model that misses something
# A bigram of the same text is calibrated: z - h has mean 0. What it misses shows one token later.

# %%
bigram = scored(Truncated(process, 1), tokens)
other = self_similarity(bigram, rng, series=["z", "m"], n_shuffles=333)
print("mean", round(other.white.mean, 3), " lag 1:", other.white.autocorrelation[0].round(3), " p", other.white.p)

# %%
estimator = "H, Whittle T^0.5"
entries = ("value", "low", "high", "shuffled")
both = {"exact": found, "last token only": other}
ExponentsDisplay(
    values={
        source: {
            names[str(one)]: [float(result.data[entry].sel(series=one, estimator=estimator)) for entry in entries]
            for one in result.data.series.values
        }
        for source, result in both.items()
    },
    words={source: result.verdict() for source, result in both.items()},
).plot()

# %% [markdown]
# ## What the model sees
# Windows that begin anew inside a document put a saw into surprisal, which R/S reads as memory. They are refused;
# windows that slide are not.

# %%
try:
    scored(process, tokens, context=64, stride=64)
except ValueError as refusal:
    print(refusal)
by_context(process, tokens, [1, 4], rng, n_shuffles=333)[["mean", "rescaled", "whittle", "verdict"]].to_pandas().round(
    3
)

# %% [markdown]
# ## Do exponents predict scores?
# The published predictor, `1/BPB + H`, is compared with BPB; how much of its gain is the reciprocal is not in the
# table. `nextlens downstream TABLE.csv` adds that baseline, holds every model out in turn, and permutes H within
# families.

# %%
print(said(published()))

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that a text *has long memory* because H is above ½: R/S is above ½ of nothing, and of much without memory.
# - Not that `none` means *no dependence*: Mess3 has memory, of some tokens, which the lowest frequencies do not see.
# - Not that a model *tracks* what z remembers: that is in h, and what it misses is in z - h.
# - Not that `power-law` is *proof*: what share of two relaxation times of the same H would pass is printed beside it.
