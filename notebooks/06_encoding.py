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
# # From words to a brain: every score beside its null, its control and its ceiling
#
# A listener hears stories; each voxel, component or region of the brain is predicted from features of the words, by a
# ridge fitted on other stories (LeBel et al. 2023; Dupré la Tour et al. 2022). The listener here is made up, so that
# what each target follows is known: word vectors, surprisal, recall of an earlier moment, or nothing. Real data go the
# same way: `nextlens encode --data alice`, `--data lebel2023`, `--data bids`.

# %%
import os
import tempfile
import warnings

import numpy as np
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

from nextlens.analyses.displays.cortex import CortexDisplay
from nextlens.analyses.displays.partition import PartitionDisplay
from nextlens.analyses.displays.target_scores import TargetScoresDisplay
from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.encoding_result import EncodingResult
from nextlens.analyses.encoding_run import run
from nextlens.probes.encoding import encode
from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.noise_ceilings import noise_ceiling
from nextlens.probes.responses.simulated import simulate
from nextlens.probes.ridge_cv import RidgeCV
from nextlens.probes.story_folds import BlocksOfStory, HeldOutStories
from nextlens.probes.word_vectors import WordVectors, word_rate
from nextlens.probes.words_to_volumes import Lanczos, beside

warnings.simplefilter("ignore", UserWarning)  # a target that follows nothing wants the largest penalty, and says so
draws = int(os.environ.get("STEPS", 1000))

# %% [markdown]
# ## Words to volumes
# Words have onsets, volumes come every two seconds, and blood is slow: words are summed through a low-pass filter,
# z-scored inside each story, and stand in the design four times, 2 to 8 s late. No step crosses the border of a story.

# %%
made = simulate(np.random.default_rng(0), each=4)
heard = made.listening
steps = make_pipeline(Lanczos(heard.rows), ZScore(), Delays((1, 2, 3, 4)))
vectors = WordVectors(made.lexicon, made.vectors, "vectors").of(heard.words)
X = steps.fit_transform(beside([vectors, word_rate(heard.words)]))
print(dict(heard.words.sizes), "to", dict(X.sizes), "and responses", dict(heard.response.sizes))

# %% [markdown]
# ## A score, and what it is worth
# The null is the same prediction, rolled in time; the ceiling comes from repeats of the tested stories.

# %%
ceiling = noise_ceiling("repeats", made.repeats)
tested = HeldOutStories(["story10", "story11"])
model = RidgeCV(np.logspace(0, 6, 7), cv=4)
result = encode(X, heard.response, model=model, cv=tested, rng=np.random.default_rng(1), ceiling=ceiling, draws=draws)
for kind in ("embedding", "surprisal", "recall", "absent"):
    one = result.sel(target=result.planted == kind)
    n = int((one.q < 0.05).sum())
    print(f"{kind:10s} r {float(one.r.mean()):5.2f}, null 95 % {float(one.null_q95.mean()):.2f}, {n} of 4 with q < .05")

# %%
display = TargetScoresDisplay(
    scores={"vectors and rate": result.r}, null=result.null_q95, ceiling=result.ceiling, names=result.planted.values
).plot()

# %% [markdown]
# ## Why folds keep neighbours together
# One story only, and a model that knows nothing but the time. Under shuffled folds it reads its neighbours; `encode`
# refuses such folds unless it is told that this is a demonstration.

# %%
first = heard.of(["story00"])
alone = steps.set_params(lanczos__rows=first.rows).fit_transform(word_rate(first.words))
for name, cv in (("shuffled", KFold(5, shuffle=True, random_state=0)), ("blocks with a gap", BlocksOfStory(5))):
    found = encode(
        alone,
        first.response,
        model=RidgeCV([1e3], cv=BlocksOfStory(4)),
        cv=cv,
        rng=np.random.default_rng(2),
        draws=50,
        allow_leakage=name == "shuffled",
    )
    time = float(found.control_r.max("width").mean())
    print(f"{name:18s} word rate r {float(found.mean_r):5.2f}, time alone r {time:5.2f}")

# %% [markdown]
# ## Several feature spaces, each with its own penalty
# The whole question in one call, as `nextlens encode` asks it: every space beside word rate, all in one banded ridge,
# and all but one. The result carries its recipe, and the line that repeats it.

# %%
recipe = EncodingRecipe(subjects=("0",), draws=draws, candidates=4, alphas=8)
with tempfile.TemporaryDirectory() as folder:
    numbers = run(recipe, folder)
    whole = EncodingResult.open(folder)
print(whole.command)
listener = numbers["subjects"]["0"]
for name, row in listener["models"].items():
    print(
        f"{name:24s} r {row['mean_r']:6.3f} null {row['mean_null_95']:.3f} of ceiling {row['mean_r_over_ceiling']:.2f}"
    )

# %%
bands = listener["models"]["joint"]["bands"]
lost = {
    gap["other"].removeprefix("joint without "): (gap["difference"], *gap["interval_95"])
    for gap in listener["differences"]
    if gap["one"] == "joint"
}
shares = {"listener 0": [share["r"] for share in bands.values()]}
display = PartitionDisplay(bands=list(bands), shares=shares, lost={"listener 0": lost}).plot()

# %% [markdown]
# ## On the cortex
# Where targets are vertices of fsaverage5, or voxels of a volume in MNI space, scores go back to where they are from.
# This map is made up: components and regions have no place on a cortex, and `nextlens encode` says so.

# %%
rng = np.random.default_rng(3)
places = np.linspace(-3, 3, 10_242)
left, right = (0.4 * np.exp(-(places**2)) * rng.random(10_242) for _ in range(2))
q = {f"q_{side}": np.where(np.abs(places) < 1, 0.01, 0.5) for side in ("left", "right")}
display = CortexDisplay(left=left, right=right, **q, caption="a made-up map: no brain looks like this").plot()

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that brains are predicted *this well*: the noise here is mild. On the components of LeBel et al. the mean r is
#   .10 to .17, and [the page](../docs/encoding.md) has the numbers.
# - Not that a feature space that predicts *is used* by the brain: what is correlated with it predicts as well.
# - Not that a gain on the folds that chose a penalty is *evidence*: compare on stories that chose nothing.
# - Not that a score above the null is *large*: with ten thousand rows very little is above the null.
