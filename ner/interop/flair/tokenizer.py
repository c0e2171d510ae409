"""A tagger's tokenizer as flair needs it: made to read any text as ours does, zipped as flair stores one, and checked.

Ours leaves that to :mod:`ner.views`, which flair has not; so here it is all put into the tokenizer's own description,
tokenizer.json. It serves :mod:`ner.interop.flair.bridge`, in the separate environment `flair`.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.core.errors import UserError

# What the exported tokenizer makes of a token that it would drop, and reads as the encoder's unknown sub-token.
NOTHING_LEFT = "<nothing-is-left-of-this-token>"


def read_any_text(description: dict[str, Any], special: Mapping[str, str]) -> tuple[dict[str, Any], int | None]:
    """The tokenizer, made to read any text as :meth:`ner.views.ViewEncoder.words` does.

    Returns:
        its description, and the row of the vocabulary that is to be a copy of the unknown sub-token's: of a token of
        which nothing would be left. None where no token is lost.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.encode_special_tokens = True  # text that spells a special token is text
    steps = [description["normalizer"]] if description.get("normalizer") else []
    unknown, unreadable = special["unk_token"], None
    for token in set(special.values()) - {unknown}:
        # A SentencePiece vocabulary holds these as ordinary pieces, too.
        if tokenizer.token_to_id(token) in tokenizer.encode(token, add_special_tokens=False).ids:
            unreadable = unreadable or _unreadable(tokenizer, unknown)
            steps.append({"type": "Replace", "pattern": {"String": token}, "content": unreadable})
    lost, row = _lost_characters(tokenizer), None
    added = description["added_tokens"]
    if lost:
        row = tokenizer.get_vocab_size(with_added_tokens=True)
        added = [
            *added,
            {
                "id": row,
                "content": NOTHING_LEFT,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": True,
                "special": False,
            },
        ]
        pattern = {"Regex": rf"\A[{lost}]+\z"}
        steps.insert(0, {"type": "Replace", "pattern": pattern, "content": NOTHING_LEFT})
    normalizer = {"type": "Sequence", "normalizers": steps} if steps else None
    return {**description, "normalizer": normalizer, "added_tokens": added}, row


def _lost_characters(tokenizer: Any) -> str:
    """The characters of which the tokenizer leaves nothing, as the inside of a regular expression's [class]."""
    lost: list[int] = []
    for plane in range(0, 0x110000, 0x10000):
        characters = [number for number in range(plane, plane + 0x10000) if not 0xD800 <= number < 0xE000]
        read = tokenizer.encode(list(map(chr, characters)), is_pretokenized=True, add_special_tokens=False)
        kept = set(read.word_ids)
        lost += [number for place, number in enumerate(characters) if place not in kept]
    return "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in _ranges(lost))


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    for place, number in enumerate(numbers):
        if place == 0 or numbers[place - 1] != number - 1:
            first = number
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            yield first, number


def _unreadable(tokenizer: Any, unknown: str) -> str:
    """A character that the vocabulary lacks."""
    number = tokenizer.token_to_id(unknown)
    for character in map(chr, range(0x2000, 0x3000)):
        read = tokenizer.encode([character], is_pretokenized=True, add_special_tokens=False)
        if read.ids and read.ids[-1] == number:
            return character
    raise UserError("tokenizer.json: found no character that it does not know; it cannot be brought to flair")


def tokenizer_archive(
    description: Mapping[str, Any], special: Mapping[str, str], max_length: int, *, split_special_tokens: bool
) -> io.BytesIO:
    """A tokenizer as flair stores one: a zip of what transformers saves."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "split_special_tokens": split_special_tokens,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("tokenizer.json", json.dumps(description, ensure_ascii=False))
        file.writestr("tokenizer_config.json", json.dumps(config, ensure_ascii=False))
    archive.seek(0)
    return archive


def check_framing(tokenizer: Any, special: Mapping[str, str]) -> None:
    """Ours frames a sentence by hand, flair by the tokenizer's post-processor."""
    ids = tokenizer(["a"], is_split_into_words=True)["input_ids"]
    first = special.get("cls_token", special.get("bos_token"))
    last = special.get("sep_token", special.get("eos_token"))
    found = tokenizer.convert_ids_to_tokens([ids[0], ids[-1]])
    if found != [first, last]:
        raise UserError(
            f"tokenizer.json: frames a sentence with {found[0]} … {found[1]}, the tagger with {first} … "
            f"{last}; it cannot be brought to flair"
        )
