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
# # Prediction by pointing: corpus, context, and what is alike
#
# The Generalized Induction-Head Model (arXiv:2411.00066) predicts the next token by pointing at places: where the
# longest match stands in the context, or in a corpus, or, if no match is long enough, at every earlier context that is
# like this one. Every prediction is a list of places. `STEPS` sets how long the small language model below is trained.

# %%
import os
from functools import partial

import numpy as np
import torch

from nextlens.analyses.checkpoint_passage import PASSAGE
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.kernel_regret import kernel_regret
from nextlens.models.induction import InfiniGram, SuffixArray
from nextlens.models.induction.answers import SOURCES, Answers
from nextlens.models.induction.context_features import BeliefFeatures, LawFeatures, ResidualFeatures
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.generation import write
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.residual_head import ResidualHead
from nextlens.models.induction.scores import score_votes
from nextlens.models.induction.speculative import Acceptance, speculate
from nextlens.models.induction.threshold import choose_threshold
from nextlens.models.objectives.matching import Matching
from nextlens.models.processes import rrxor
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.tasks.sourced_text import SOURCE_OF, SourcedText, meanings
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.words import Words

torch.set_num_threads(1)
steps = int(os.environ.get("STEPS", 600))

# %% [markdown]
# ## A text of known source
# Phrases said in synonyms, blocks that are copied, facts of the corpus, and facts that the document changes: of every
# query it is known who can answer it.

# %%
text = SourcedText.drawn(np.random.default_rng(0))
reference = text.reference(400, np.random.default_rng(1))
documents = text.test(60, np.random.default_rng(2))
index = SuffixArray.build(reference, n_tokens=text.n_tokens)
similar = FuzzyInduction(meanings, n_tokens=text.n_tokens)  # knows every synonym
gim = GIM(InfiniGram(index), ExactInduction(text.n_tokens), similar, threshold=6)
answers = Answers.joined([gim.answers(document.tokens, document.position) for document in documents])
right = np.concatenate([document.answer for document in documents])
kind = np.array([kind for document in documents for kind in document.kind])
owner = np.repeat(np.arange(len(documents)), [len(document.kind) for document in documents])

# %%
said = {name: getattr(answers, name) for name in SOURCES}
said |= {f"GIM, threshold {threshold}": answers.votes(threshold) for threshold in (1, 3, 6, 11)}
for name, votes in said.items():
    strict = score_votes(votes, right, text.n_tokens).strict
    print(f"{name:18s}", *(f"{one} {strict[kind == one].mean():.3f}  " for one in SOURCE_OF))
source = np.array(SOURCES)[answers.source(6)]
print("the right source answers:", (source == [SOURCE_OF[one] for one in kind]).mean().round(3))

# %% [markdown]
# ## How long must a match be?
# The threshold is chosen on held-out documents: each part answers once, and every threshold is then only a choice.

# %%
fit = choose_threshold(answers, right, owner, text.n_tokens, rng=np.random.default_rng(3))
curve = fit.curve
display = CurvesDisplay(
    along=curve.threshold.values,
    values={f"chosen: {fit.threshold}": 100 * curve.score.values},
    intervals={f"chosen: {fit.threshold}": 100 * np.array([curve.low.values, curve.high.values])},
    xlabel="threshold, tokens",
    ylabel="queries answered, %",
).plot()

# %% [markdown]
# ## Why this token?
# The same document, asked twice: who predicts, from which places, and what the other parts would have said.

# %%
document = documents[0]
print(gim.explain(document.tokens, int(document.position[document.kind.index("override")]), most=3))

# %%
gim.explain(document.tokens, int(document.position[document.kind.index("synonym")]), most=4)

# %% [markdown]
# ## A matcher that was not told the synonyms
# A language model is trained on the corpus. Its own next-token laws can be compared, or its residual stream as it is,
# or through a linear map that learns to be near where the laws are.

# %%
corpus = Corpus(reference, n_tokens=text.n_tokens)
config = TransformerConfig(n_tokens=text.n_tokens, n_layers=2, n_heads=4, d_model=64, n_ctx=64, positions="rotary")
teacher = Transformer(config)
trained = train(
    teacher,
    corpus.batches(16, 65, np.random.default_rng(4)),
    steps=steps,
    optimiser=partial(torch.optim.Adam, lr=4e-3, fused=True),
    schedule=warmup_cosine(steps, warmup=steps // 10),
)
loss = [step.loss for step in trained]
teacher.requires_grad_(False)
site, taught = "blocks.0.resid_post", max(2, steps // 6)
head = ResidualHead.for_model(teacher, site, 32)
batches = corpus.batches(16, 65, np.random.default_rng(5))
adam = partial(torch.optim.Adam, lr=3e-3)
trained = train(teacher, batches, steps=taught, objective=Matching(head), optimiser=adam)
distance = [step.loss for step in trained]
print(f"language model {loss[0]:.2f} to {loss[-1]:.2f} nats; head {distance[0]:.2f} to {distance[-1]:.2f}")

# %%
matchers = {
    "own laws": FuzzyInduction(LawFeatures(teacher), distance="jeffreys"),
    "raw, final norm": FuzzyInduction(ResidualFeatures(teacher, "ln_final.normalized")),
    "head after block 0": FuzzyInduction(ResidualFeatures(teacher, head=head)),
}
for name, matcher in matchers.items():
    with_it = GIM(gim.infinigram, gim.exact, matcher, threshold=6)
    learned = Answers.joined([with_it.answers(document.tokens, document.position) for document in documents])
    strict = score_votes(learned.votes(6), right, text.n_tokens).strict
    print(f"GIM, {name:20s}", *(f"{one} {strict[kind == one].mean():.3f}  " for one in SOURCE_OF))

# %% [markdown]
# ## The draft of a larger model
# In speculative decoding a matcher proposes and the language model disposes: what comes out has the law of the language
# model, whatever the draft. How much is accepted says how near the two are.

# %%
draft = GIM(gim.infinigram, gim.exact, threshold=0, floor=0.05)
rounds = list(speculate(teacher, draft, reference[0][:10], length=50, rng=np.random.default_rng(6), ahead=3))
Acceptance.of(rounds)

# %% [markdown]
# ## Written with provenance
# On a real text, a scene of a play: every token that is written is on the list of some place.

# %%
words = Words.of([PASSAGE])
scene = words.encode(words.masked(PASSAGE))
play = GIM(InfiniGram(SuffixArray.build([scene], vocabulary=words)), threshold=0)
for one in write(play, words.encode("and the"), length=8, rng=np.random.default_rng(7)):
    print(f"{words.decode([one.token]):12s} matched {one.length}, {len(one.places())} places")

# %% [markdown]
# ## The ideal likeness
# On a hidden Markov process the likeness to have is known, that of the beliefs, and so is what the best predictor says:
# the regret of pointing is exact.

# %%
process = rrxor()
tokens = process.sample(8, 300, np.random.default_rng(8))
ideal = GIM(fuzzy=FuzzyInduction(BeliefFeatures(process), temperature=0.01), threshold=1000, floor=0.02)
exact = GIM(exact=ExactInduction(2), threshold=0, floor=0.02)
regrets = {
    name: kernel_regret(one, process, tokens).mean("sequence") for name, one in (("beliefs", ideal), ("exact", exact))
}
blocks = {name: regret.values.reshape(10, 30).mean(1) for name, regret in regrets.items()}
falls = CurvesDisplay(
    along=np.arange(15, 300, 30), values=blocks, xlabel="tokens read", ylabel="regret, bits a token"
).plot()

# %% [markdown]
# ## What not to conclude
# Do not conclude from this page any of four things.
# - Not that a threshold of 5 to 10 is right *for language*: here phrases have four tokens and facts ten. On text it is
#   fitted anew; `nextlens gim evaluate` does that, and tests the published claims.
# - Not that pointing *explains a transformer*: the places are how this model predicts, and no other.
# - Not that a likeness of next-token laws is a likeness of *meaning*: contexts whose next token nobody can know look
#   alike, and copied noise is found by exact matches alone.
# - Not that few accepted proposals make a draft *wrong*: what comes out has the law of the target in any case.
