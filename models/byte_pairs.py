"""Byte-pair vocabularies: trained here, or read from the files that others wrote."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nextlens.models.arguments import at_least
from nextlens.models.subwords import Subwords


def train_byte_pairs(
    texts: Iterable[str], n_tokens: int, *, special: Iterable[str] = (), rarest_pair: int = 2
) -> Subwords:
    """A byte-level vocabulary: 256 bytes, and then the most frequent pairs, joined one after another.

    Every text that UTF-8 can hold is of its domain. Pairs never reach across words, which GPT-2's pattern
    tells apart (Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019). ``save(path)`` of what is
    returned writes a ``tokenizer.json``.

    Parameters
    ----------
    texts : iterable of str
    n_tokens : int
        Of the vocabulary: 256, the pairs, and the special ones.
    special : iterable of str
        Spelled whole, and numbered first.
    rarest_pair : int, default=2
        How often a pair must stand in the texts to be joined.

    Raises
    ------
    ValueError
        If ``n_tokens`` leaves no room for the 256 bytes and the special tokens, or the texts hold too few
        pairs to fill it.
    """
    special = list(special)
    at_least("n_tokens", n_tokens, 256 + len(special))
    at_least("rarest_pair", rarest_pair, 1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=special,
        min_frequency=rarest_pair,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (found := tokenizer.get_vocab_size()) < n_tokens:
        raise ValueError(
            f"n_tokens={n_tokens} cannot be filled: with pairs that stand at least {rarest_pair} times "
            f"the texts give {found}"
        )
    return Subwords(tokenizer)


def read_tokenizer(path: str | os.PathLike[str]) -> Subwords:
    """A tokenizer from a ``tokenizer.json``, or a folder with it, or with GPT-2's ``vocab.json`` and ``merges.txt``.

    Nothing is fetched.

    Raises
    ------
    FileNotFoundError
        If there are no such files.
    ValueError
        If they describe no tokenizer.
    """
    path = Path(path)
    if not path.is_dir():
        return Subwords.from_file(path)
    if (path / "tokenizer.json").is_file():
        return Subwords.from_file(path / "tokenizer.json")
    pair = path / "vocab.json", path / "merges.txt"
    if not all(file.is_file() for file in pair):
        raise FileNotFoundError(
            f"{str(path)!r} holds no tokenizer: neither 'tokenizer.json' nor 'vocab.json' with 'merges.txt'"
        )
    try:
        tokenizer = Tokenizer(models.BPE.from_file(*map(str, pair)))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{str(path)!r} describes no tokenizer: {error}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Subwords(tokenizer)
