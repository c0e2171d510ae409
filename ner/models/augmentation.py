"""Semantic augmentation: for each word, the weighted sum of the vectors of the words most similar to it.

As in IIE4MNER (:mod:`ner.models.iie4mner`): the nearest by cosine, the word itself left out, weighted by the softmax of
their cosines. A word's sum depends on nothing but the file of vectors, so it is kept in the store and computed once.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core import word_vectors
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.store import Store, digest

VERSION = 1  # of what the store keeps
_BLOCK = 4_096  # words that are compared with _CHUNK others at once: 64 MB of cosines
_CHUNK = 4_096
_GROUP = 64  # cosines of which only the largest is looked at first
_COMPARED = 16  # words by which a file is recognised
_RESCORED = 64  # words whose candidates are looked at at once


class Neighbours:
    """Sums of neighbours' vectors, from the store where it has them; the file is read once, where it lacks one.

    Args:
        file: word2vec's or GloVe's.
        count: how many words augment a word.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, file: Path, count: int) -> None:
        word_vectors.require(file)
        self.file, self.count = file, count
        self._fingerprint = digest(
            {"augmentation": VERSION, "vectors": file_digest(file), "neighbours": count, "weights": "softmax(cosine)"}
        )
        self._vectors: word_vectors.WordVectors | None = None

    def of(self, tokens: Iterable[str]) -> dict[str, Tensor]:
        """The vector that augments each token that the file has.

        A token is looked up as it is written, then in lower case where no word of the file has a capital.

        Args:
            tokens: repeated or not.

        Returns:
            by token, sorted, *Shape:* (width,) each, float32.

        Raises:
            UserError: the file cannot be read, or has not so many words beside the word itself.
        """
        keys = {
            token: hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest() for token in sorted(set(tokens))
        }
        with Store.open() as store:
            found = store.get_many(self._fingerprint, list(keys.values()))
            lacking = [token for token in keys if keys[token] not in found]
            if lacking:
                made = {keys[token]: _bytes(vector) for token, vector in self._computed(lacking).items()}
                made |= {keys[token]: b"" for token in lacking if keys[token] not in made}
                store.put_many(self._fingerprint, made)
                found |= made
        stored = {token: found[key] for token, key in keys.items() if found[key]}
        return {token: torch.from_numpy(np.frombuffer(row, "<f4").astype(np.float32)) for token, row in stored.items()}

    def _computed(self, tokens: Sequence[str]) -> Mapping[str, Tensor]:
        if self._vectors is None:
            print(f"{self.file.name}: neighbours of {len(tokens)} words", file=sys.stderr)
            self._vectors = word_vectors.read(self.file)
        return sums(self._vectors, self.count, tokens)


def augmented(file: Path, neighbours: int, tokens: Iterable[str]) -> tuple[list[str], Tensor]:
    """The vectors that augment the tokens of a data set, as :class:`Neighbours` has them.

    Returns:
        the tokens that have a vector, sorted.
        their sums of neighbours' vectors, float32, *Shape:* (n_tokens, width).

    Raises:
        UserError: the file cannot be read, has not so many words beside the word itself, or none of these.
    """
    distinct = set(tokens)
    found = Neighbours(file, neighbours).of(distinct)
    if not found:
        raise UserError(
            f"train.iie4mner.word_vectors: {file}: has none of the data's {len(distinct)} words; expected vectors of "
            "their language, or null"
        )
    return list(found), torch.stack(list(found.values()))


def recognized(file: Path, count: int, words: Sequence[str], vectors: Tensor, name: str | None) -> Neighbours:
    """The neighbours in a file, if it is the one that a tagger has its vectors from.

    Args:
        file: word2vec's or GloVe's.
        count: how many words augment a word.
        words: those of the tagger, of which the first few are compared.
        vectors: that augment them, *Shape:* (n_words, width).
        name: of the file that the tagger was trained with.

    Raises:
        UserError: the file cannot be read, or gives a word another vector.
    """
    neighbours = Neighbours(file, count)
    few = dict(zip(words[:_COMPARED], vectors[:_COMPARED].float().cpu(), strict=True))
    found = neighbours.of(few)
    for word, vector in few.items():
        other = found.get(word)
        if other is None or other.shape != vector.shape or not torch.allclose(other, vector, rtol=1e-3, atol=1e-4):
            raise UserError(
                f"word vectors {file}: expected those that the tagger was trained with ({name}); found another vector, "
                f"or none, of {word!r}"
            )
    return neighbours


def _bytes(vector: Tensor) -> bytes:
    return vector.numpy().astype("<f4").tobytes()


def sums(vectors: word_vectors.WordVectors, neighbours: int, tokens: Sequence[str]) -> Mapping[str, Tensor]:
    """For each token that has a vector, Σ softmax(cosine)ᵢ · vectorᵢ over its nearest neighbours.

    400,000 vectors of width 50 and 18,000 tokens take half a minute on one core; what it takes beside the vectors
    themselves is 64 MB and, for each 1,000,000 vectors, 256 MB.

    Args:
        vectors: n_words of them.
        neighbours: how many are summed up; of equal cosines, any.
        tokens: each once.

    Returns:
        by token, *Shape:* (width,) each.

    Raises:
        UserError: there are fewer words than neighbours and the word itself.
    """
    if len(vectors.words) <= neighbours:
        raise UserError(
            f"train.iie4mner.word_vectors: found {len(vectors.words)} words; expected more than "
            f"train.iie4mner.neighbours = {neighbours}"
        )
    index = {word: place for place, word in enumerate(vectors.words)}
    lower_cased = vectors.lower_cased
    places = {}
    for token in tokens:
        place = index.get(token, index.get(token.lower()) if lower_cased else None)
        if place is not None:
            places[token] = place
    table = torch.from_numpy(vectors.vectors)
    found: dict[int, Tensor] = {}
    for block in torch.tensor(sorted(set(places.values())), dtype=torch.long).split(_BLOCK):
        cosines, nearest = _nearest(table, block, neighbours)
        summed = (cosines.softmax(1).unsqueeze(2) * table[nearest]).sum(1)
        found |= dict(zip(block.tolist(), summed, strict=True))
    return {token: found[place] for token, place in places.items()}


def _nearest(table: Tensor, block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and places of the k vectors nearest to those at `block`, without themselves, *Shape:* (n, k) each.

    The k groups with the largest maxima contain the k largest, so only their cosines are looked at one by one.
    """
    queries, n_groups = _unit(table[block]), -(-len(table) // _GROUP)
    largest = queries.new_empty(len(block), n_groups)
    for begin in range(0, len(table), _CHUNK):
        chunk = _unit(table[begin : begin + _CHUNK])
        scores = queries @ chunk.T
        here = ((block >= begin) & (block < begin + len(chunk))).nonzero().squeeze(1)
        scores[here, block[here] - begin] = -torch.inf
        if lacking := -len(chunk) % _GROUP:
            scores = nn.functional.pad(scores, (0, lacking), value=-torch.inf)
        groups = scores.unflatten(1, (-1, _GROUP)).amax(2)
        largest[:, begin // _GROUP : begin // _GROUP + groups.shape[1]] = groups
    chosen = largest.topk(min(k, n_groups), 1).indices
    found = [
        _rescored(table, *part, k)
        for part in zip(queries.split(_RESCORED), block.split(_RESCORED), chosen.split(_RESCORED), strict=True)
    ]
    return torch.cat([cosines for cosines, _ in found]), torch.cat([places for _, places in found])


def _rescored(table: Tensor, queries: Tensor, block: Tensor, groups: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest cosines within some groups (n, n_groups), and their places, *Shape:* (n, k) each."""
    places = (groups.unsqueeze(2) * _GROUP + torch.arange(_GROUP)).flatten(1)
    none = (places >= len(table)) | (places == block.unsqueeze(1))
    places = places.clamp_max(len(table) - 1)
    cosines = (_unit(table[places]) @ queries.unsqueeze(2)).squeeze(2).masked_fill_(none, -torch.inf)
    values, order = cosines.topk(k, 1)
    return values, places.gather(1, order)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)
