"""Builds `sample/data`: three files of posts, their pictures, and which part of a picture decides each post.

In a decided post exactly one of a secondary object, the scene or the sign tells the type; the rest of the picture
is neutral. `sample.text` writes the posts, `sample.render` draws the pictures.
"""

import argparse
import hashlib
import io
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.files import atomic_write
from sample.render import CLASSES, COLOURS, DATA_SPACE, SCENES, SIZES, Spec, Thing, jpeg, render
from sample.text import Names, Post, ambiguous_post, names_of_test, plain_post

# What in a picture goes with which type. None of it names a type: what a cue means has to be learnt from the posts.
OBJECT_CUES = {"PER": ("guitar",), "LOC": ("boat",), "ORG": ("car",), "MISC": ("kite",)}
SCENE_CUES = {"PER": ("stage",), "LOC": ("snow",), "ORG": ("street",), "MISC": ("night",)}
SIGN_CUES = {
    "PER": ("LIVE TONIGHT", "THANK YOU"),
    "LOC": ("EXIT 12", "WELCOME"),
    "ORG": ("NOW HIRING", "BIG SALE"),
    "MISC": ("SEASON 3", "SOLD OUT"),
}
NEUTRAL_CLASSES = tuple(label for label in CLASSES if label not in sum(OBJECT_CUES.values(), ()))
NEUTRAL_SCENES = tuple(scene for scene in SCENES if scene not in sum(SCENE_CUES.values(), ()))
NEUTRAL_SIGNS = ("WET PAINT", "PUSH", "KEEP LEFT", "NO PARKING", "DANGER", "THIS WAY UP")

SIZES_OF_SPLITS = {"train": 650, "valid": 160, "test": 200}
SEED = 2015
KINDS = ("objects", "captions", "ocr")
# How many of a hundred posts are decided by which kind, or by their text: then with an unrelated picture, with one
# that agrees with the text, or with none.
ROLES = {"objects": 15, "captions": 15, "ocr": 16, "unrelated": 34, "agreeing": 14, "none": 6}

Generator = np.random.Generator


@dataclass(frozen=True)
class Item:
    """A post of the data set; `decides` is one of KINDS or "text", `spec` None where there is no picture."""

    id: str
    post: Post
    role: str
    spec: Spec | None
    seed: tuple[int, ...]  # of the picture

    @property
    def decides(self) -> str:
        return self.role if self.role in KINDS else "text"


def picture_spec(kind: str | None, entity_type: str, rng: Generator) -> Spec:
    """A picture in which `kind` (one of KINDS; None: nothing) tells `entity_type`, and the rest is neutral.

    An object that tells a type is never the main one, which the caption names.
    """
    main = Thing(_pick(rng, NEUTRAL_CLASSES), _pick(rng, COLOURS), "large")
    others = [_thing(_pick(rng, NEUTRAL_CLASSES), rng) for _ in range(int(rng.integers(0, 3)))]
    scene = _pick(rng, NEUTRAL_SCENES)
    sign = _pick(rng, NEUTRAL_SIGNS) if rng.random() < 0.3 else None
    if kind == "objects":
        others = [*others[:1], _thing(_pick(rng, OBJECT_CUES[entity_type]), rng)]
        if rng.random() < 0.5:
            others.reverse()
    elif kind == "captions":
        scene = _pick(rng, SCENE_CUES[entity_type])
    elif kind == "ocr":
        sign = _pick(rng, SIGN_CUES[entity_type])
    return Spec(scene, [main, *others], sign)


def unrelated_spec(rng: Generator) -> Spec:
    """A picture of anything, cues of any type among it."""
    others = [_thing(_pick(rng, CLASSES), rng) for _ in range(int(rng.integers(0, 3)))]
    main = Thing(_pick(rng, CLASSES), _pick(rng, COLOURS), "large")
    signs = NEUTRAL_SIGNS + sum(SIGN_CUES.values(), ())
    return Spec(_pick(rng, SCENES), [main, *others], _pick(rng, signs) if rng.random() < 0.4 else None)


def _thing(label: str, rng: Generator) -> Thing:
    return Thing(label, _pick(rng, COLOURS), _pick(rng, SIZES))


def _pick(rng: Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def spec_for(post: Post, role: str, rng: Generator) -> Spec | None:
    """The picture that goes with a post of a role of ROLES."""
    if role == "none":
        return None
    if role == "unrelated":
        return unrelated_spec(rng)
    if role == "agreeing":
        return picture_spec(_pick(rng, KINDS), post.telling_type or "", rng)
    return picture_spec(role, post.open_type or "", rng)


def roles(count: int, rng: random.Random) -> list[str]:
    """A role for each of `count` posts, in the shares of ROLES, shuffled."""
    bounds = np.cumsum([0, *ROLES.values()]) * count // 100
    assigned = [role for role, low, high in zip(ROLES, bounds, bounds[1:], strict=False) for _ in range(high - low)]
    rng.shuffle(assigned)
    return assigned


def draw(names: Names, role: str, seed: tuple[int, ...]) -> tuple[Post, Spec | None]:
    """A post of a role and its picture."""
    post = ambiguous_post(names) if role in KINDS else plain_post(names)
    return post, spec_for(post, role, np.random.default_rng(seed))


def build_split(split: str) -> list[Item]:
    """The posts of a split with their pictures' specifications; the same every time."""
    number = list(SIZES_OF_SPLITS).index(split)
    rng = random.Random(SEED + number)
    names = names_of_test(rng) if split == "test" else Names(rng)
    items = []
    for position, role in enumerate(roles(SIZES_OF_SPLITS[split], rng)):
        seed = (DATA_SPACE, SEED, number, position)
        post, spec = draw(names, role, seed)
        items.append(Item(_id(number, position, rng), post, role, spec, seed))
    return items


def _id(split: int, position: int, rng: random.Random) -> str:
    """An id of one of the shapes that the published sets have: N, O_N, N_N_N and N_N_N_N."""
    number = 1000 * split + position  # the number alone tells them apart
    match rng.randrange(4):
        case 0:
            return str(10000 + 7 * number)
        case 1:
            return f"O_{1000 + number}"
        case 2:
            return f"17_06_{4000 + number}"
        case _:
            return f"16_05_{rng.randint(1, 28):02d}_{number}"


def damage(split: str, items: Sequence[Item]) -> tuple[dict[str, tuple[list[str], list[str]]], dict[str, str]]:
    """What is broken in a split, as in life; only posts that need no picture are touched.

    Returns:
        id → tokens and labels in place of the post's own (an invisible token put in; a first label turned into an
        orphan `I-`), and id → what is wrong with its picture file: "truncated", or "png" for a PNG with an alpha
        channel under the name of a JPEG.
    """
    plain = [item for item in items if item.role == "unrelated"]
    few = 3 if split == "train" else 1
    words: dict[str, tuple[list[str], list[str]]] = {}
    for item, token in zip(plain, ("\u200b", "\ufe0f", "\u200b")[:few], strict=False):
        words[item.id] = ([*item.post.tokens, token], [*item.post.labels, "O"])
    for item in plain[few : 2 * few]:
        labels = list(item.post.labels)
        first = next(position for position, label in enumerate(labels) if label.startswith("B-"))
        labels[first] = f"I-{labels[first][2:]}"
        words[item.id] = (item.post.tokens, labels)
    files = {item.id: "truncated" for item in plain[2 * few : 3 * few]}
    files |= {item.id: "png" for item in plain[3 * few : 4 * few]}
    return words, files


def encode(item: Item, fault: str | None) -> bytes:
    """The picture file of an item that has one."""
    if item.spec is None:
        raise ValueError(f"post {item.id} has no picture")
    picture = render(item.spec, np.random.default_rng([*item.seed, 1])).image
    buffer = io.BytesIO()
    if fault == "png":
        picture.putalpha(255)
        picture.quantize(64).save(buffer, "PNG", optimize=True)
    else:
        buffer.write(jpeg(picture))
    content = buffer.getvalue()
    return content[: len(content) // 2] if fault == "truncated" else content


def write(folder: Path, sizes: dict[str, int] | None = None) -> None:
    """Write the data set into an empty or absent folder.

    Args:
        folder: {train,valid,test}.txt, images/ and decides.tsv come here.
        sizes: split → how many of its first posts to write; None: all.
    """
    (folder / "images").mkdir(parents=True)
    rows = ["id\tdecides\n"]
    for split, size in (sizes or SIZES_OF_SPLITS).items():
        items = build_split(split)
        words, faults = damage(split, items)
        with atomic_write(folder / f"{split}.txt") as file:
            for item in items[:size]:
                tokens, labels = words.get(item.id, (item.post.tokens, item.post.labels))
                file.write(f"IMGID:{item.id}\n")
                file.writelines(f"{token}\t{label}\n" for token, label in zip(tokens, labels, strict=True))
                file.write("\n")
                rows.append(f"{item.id}\t{item.decides}\n")
                if item.spec is not None:
                    (folder / "images" / f"{item.id}.jpg").write_bytes(encode(item, faults.get(item.id)))
    with atomic_write(folder / "decides.tsv") as file:
        file.writelines(rows)


def read_decides(folder: Path) -> dict[str, str]:
    """Id → the kind of context that decides the post, or "text"."""
    lines = (folder / "decides.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("\t") for line in lines)


def digest(folder: Path) -> str:
    """SHA-256 over the names and the contents of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def main() -> None:
    """Rebuild the data set."""
    parser = argparse.ArgumentParser(description="Rebuild the sample data set, byte for byte.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    folder = parser.parse_args().output
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    write(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    print(f"{folder}: {sum(SIZES_OF_SPLITS.values())} posts, sha256 {digest(folder)}")


if __name__ == "__main__":
    main()
