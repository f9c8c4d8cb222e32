"""All that decides the numbers of an encoding run: whose responses, which features of words, how they are scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, one_of
from nextlens.probes.encoding import NULLS

DATA = ("simulated", "alice", "lebel2023", "voxels", "bids", "arrays")
#: Feature spaces of words that need no model; word rate is always there.
VECTORS, INFORMATION = "vectors", ("surprisal", "entropy")
SPACES = (VECTORS, *INFORMATION, "shuffled vectors")
CEILINGS = ("auto", "repeats", "inter-subject", "split-half", "none")
#: How words become volumes, and where drifts are taken out.
RESAMPLING, DETREND = ("sum", "lanczos"), ("auto", "run", "folds", "none")

#: Which spaces are used where none is named; with a checkpoint also surprisal and entropy.
USUAL = {"simulated": (VECTORS, "surprisal")}


@dataclass(frozen=True)
class EncodingRecipe(WrittenRecipe):
    """All that decides the numbers of a run, the data in the folder included: JSON-able, compared by value.

    Parameters
    ----------
    data : {"simulated", "alice", "lebel2023", "voxels", "bids", "arrays"}
        A listener made up, the only one that needs no data; regions of Brennan et al. 2016; components of LeBel et al.
        2023; its voxels, from a copy of OpenNeuro ds003020; a BIDS folder; or an ``.npz`` of arrays
        (:func:`~nextlens.analyses.encoding_data.arrays_of`).
    folder : str, default=""
        Of the data, or the ``.npz``. If empty, where ``NEXTLENS_DATA`` points.
    subjects : tuple of str
        All there are, if empty. Of "simulated" they are seeds; three if empty.
    stories : int, default=0
        Training stories, the first by name; 0 for all.
    shared : bool, default=False
        Only stories that all subjects heard.
    tested : tuple of str
        Stories held out. If empty, those that the data set has for it; a single story is tested in blocks.
    spaces : tuple of {"vectors", "surprisal", "entropy", "shuffled vectors"}
        If empty, vectors, and with a checkpoint surprisal and entropy; vectors are GloVe's, of the simulated
        listener those that were planted.
    checkpoint : str, default=""
        A language model, as :func:`~nextlens.models.checkpoints.load` names it.
    sites : tuple of str
        Of the checkpoint. If empty, eight of its residual stream, evenly.
    length, stride : int
        Tokens read together, and from one window to the next.
    components : int, default=128
        To which the states of a site are reduced, on training rows.
    delays : tuple of int, default=(1, 2, 3, 4)
        Volumes.
    onset : int, default=0
        The first so many volumes of every story have a column each, beside word rate and so in every model: the
        beginning of a story has a response of its own, which whatever marks it would be credited with.
    resampling : {"sum", "lanczos"}
        "lanczos" needs onsets.
    detrend : {"auto", "run", "folds", "none"}
        Polynomials out of each whole run; or out of training rows and tested rows apart. "auto" is "run" for Alice,
        "folds" for BIDS, for arrays z-scores of each story in training rows and tested rows apart,
        else "none".
    least_alpha, largest_alpha, alphas : float, float, int
        The penalties tried, evenly in the logarithm, in scikit-learn's convention.
    folds, blocks, gap : int
        Folds of training stories in which penalties are chosen; blocks of a single story, and volumes left out beside.
    candidates : int, default=10
        Shares of the bands tried, beside the centre and each alone; as many again near the best.
    null : {"rolling", "block permutation"}
    draws : int, default=1000
    ceiling : {"auto", "repeats", "inter-subject", "split-half", "none"}
        "auto" is repeats for the simulated listener and for voxels that have them, halves of the listeners for Alice,
        none for others.
    task, space, mask, labels : str
        Of BIDS: the task; which space, where there are several; an image of the brain, or of regions.
    seed : int

    Raises
    ------
    ValueError
        If a value is out of range, or sites are named without a checkpoint.
    """

    data: str = "simulated"
    folder: str = ""
    subjects: tuple[str, ...] = ()
    stories: int = 0
    shared: bool = False
    tested: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    checkpoint: str = ""
    sites: tuple[str, ...] = ()
    length: int = 512
    stride: int = 384
    components: int = 128
    delays: tuple[int, ...] = (1, 2, 3, 4)
    onset: int = 0
    resampling: str = "sum"
    detrend: str = "auto"
    least_alpha: float = 1.0
    largest_alpha: float = 1e7
    alphas: int = 12
    folds: int = 5
    blocks: int = 6
    gap: int = 5
    candidates: int = 10
    null: str = "rolling"
    draws: int = 1000
    ceiling: str = "auto"
    task: str = ""
    space: str = ""
    mask: str = ""
    labels: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        chosen = {"data": DATA, "resampling": RESAMPLING, "detrend": DETREND, "null": tuple(NULLS), "ceiling": CEILINGS}
        for name, allowed in chosen.items():
            one_of(name, getattr(self, name), allowed)
        for space in self.spaces:
            one_of("spaces", space, SPACES)
        least = {"stories": 0, "length": 2, "stride": 1, "components": 1, "alphas": 1, "folds": 2, "blocks": 2}
        for name, minimum in {**least, "onset": 0, "gap": 0, "candidates": 0, "draws": 1, "seed": 0}.items():
            at_least(name, getattr(self, name), minimum)
        if not 0 < self.least_alpha <= self.largest_alpha < np.inf:
            raise ValueError(
                f"least_alpha={self.least_alpha!r} and largest_alpha={self.largest_alpha!r} must be finite, above 0, "
                "and in this order"
            )
        if self.sites and not self.checkpoint:
            raise ValueError(f"sites={list(self.sites)!r} are of a model; name its checkpoint")
        if self.data == "bids" and not (self.folder and self.task and self.subjects):
            raise ValueError("data='bids' needs folder, task and subjects")
        if self.data == "arrays" and not self.folder:
            raise ValueError("data='arrays' needs folder: the .npz that holds them")
        if not self.delays or min(self.delays) < 0 or len(set(self.delays)) < len(self.delays):
            raise ValueError(
                f"delays={list(self.delays)!r} must hold at least one number of volumes, 0 or more, each once"
            )

    @property
    def penalties(self) -> np.ndarray:
        """The alphas."""
        return np.logspace(np.log10(self.least_alpha), np.log10(self.largest_alpha), self.alphas)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The feature spaces of words, besides word rate and states."""
        usual = USUAL.get(self.data, (VECTORS, *INFORMATION) if self.checkpoint else (VECTORS,))
        return self.spaces or usual

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens encode", self, EncodingRecipe)
