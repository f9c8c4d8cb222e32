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
# # Recall in the brain: does what followed last time predict the next response?
#
# Published (arXiv:2411.00066): adding what followed the best earlier match of the story to word vectors raised the mean
# correlation over voxels by 20 %. To test that, a gain must be found where it is, and not be found where it is not. The
# listener here is made up, and what its targets recall is known; `nextlens recall --data lebel2023` asks real ones.

# %%
import os
import tempfile
import warnings

import numpy as np

from nextlens.analyses.displays.recall import RecallDisplay
from nextlens.analyses.encoding_data import subjects_of
from nextlens.analyses.induction_brain import (
    CONTROLS,
    Configuration,
    base_scores,
    listener,
    moments,
    recall_scores,
)
from nextlens.analyses.induction_brain_matches import Matching
from nextlens.analyses.induction_brain_numbers import gap_between
from nextlens.analyses.induction_brain_recipe import RecallRecipe
from nextlens.analyses.induction_brain_run import run

warnings.simplefilter("ignore", UserWarning)
draws = min(200, int(os.environ.get("STEPS", 200)))

# %% [markdown]
# ## Moments that are alike
# For every volume, the earlier volume of the story in which the longest run of the same words ended, eight volumes back
# at least. What is copied is the response that followed it, at the same phase of the slow response of blood.

# %%
recipe = RecallRecipe(subjects=("0",), draws=draws, matchers=("exact",), values=("response",))
(subject,) = subjects_of(recipe.encoding)
one = listener(subject, recipe)
matches = Matching(subject, recipe, None, {}).of("exact", 8)
print(f"{matches.share:.0%} of the volumes have a match, {np.median(matches.lags):.0f} volumes back in the median")

# %% [markdown]
# ## The copy as a band of its own, beside three controls
# Lagged: moments as far back, but others. Uniform: any admissible moment. Permuted: the matches of another story. The
# claim is *matched less lagged*, since slow noise makes any near moment alike.

# %%
how = Configuration("exact", "response", 8)
base, found = base_scores(one), recall_scores(one, matches, how)
for name, scores in {"base": base, **found}.items():
    by = {
        kind: float(scores.r[scores.planted.values == kind].mean())
        for kind in ("embedding", "surprisal", "recall", "absent")
    }
    print(f"{name:22s}", "  ".join(f"{kind} {r:5.2f}" for kind, r in by.items()))

# %% [markdown]
# ## Where it helps
# The moments at which the copy predicts most beyond the control: what was said, and what was recalled.

# %%
for moment in moments(one, matches, found, most=3):
    print(f"volume {moment['volume']}: {moment['words'][:70]}")
    print(f"   recalled: {' | '.join(moment['recalled'])[:90]}")

# %% [markdown]
# ## The whole question in one call
# With planted effects: what an effect of known strength would have given, in these very responses.

# %%
asked = RecallRecipe(subjects=("1",), draws=draws, planted=(0.2,), matchers=("exact",), values=("response",))
with tempfile.TemporaryDirectory() as folder:
    numbers = run(asked, folder)
print(numbers["repeat"])
for name, listened in numbers["subjects"].items():
    print(f"listener {name}: {listened['verdict']}")

# %%
rows = [f"{row['matcher']}, {row['value']}" for row in numbers["subjects"]["1"]["configurations"]]
differences = {
    f"listener {name}": {
        f"less {other}": [
            [gap["difference"], *gap["interval_95"]]
            for row in listened["configurations"]
            for gap in [gap_between(row, "matched", other)]
        ]
        for other in CONTROLS
    }
    for name, listened in numbers["subjects"].items()
}
display = RecallDisplay(rows=rows, differences=differences).plot()

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that brains *recall*: this listener was made to. What came out of real ones is on
#   [the page](../docs/encoding.md).
# - Not that a gain over the base is recall: a copy brings its slow noise along. Compare with the lagged control.
# - Not that no gain on components means *none in voxels*: what was published were voxels, and other word vectors.
# - Not that the moments shown are *typical*: they are the ones where the copy helped most.
