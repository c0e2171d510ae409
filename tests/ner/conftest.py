"""Small encoders with real tokenizers, and posts whose contexts decide their labels, for the tagger's tests."""

import os
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, BertTokenizer, XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer

from ner.bioes import scheme_labels
from ner.interop import onnx
from ner.models.base import TaggerModel
from ner.models.folder import load_tokenizer, view_encoder
from ner.models.ita import ItaTagger
from ner.models.registry import tagger_class
from ner.models.rpbert import RpbertTagger
from ner.tagger import Tagger
from ner.visual import Visuals
from pipeline.core import features, records
from pipeline.core.features import Features
from pipeline.core.records import View
from pipeline.settings.training import TrainParams

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def xlm_r_tokenizer() -> XLMRobertaTokenizer:
    """XLM-R's own tokenizer over words, letters and, as in SentencePiece, the special tokens as ordinary pieces."""
    words = ["▁in", "▁the", "▁Jordan", "▁Paris", "▁love", "▁court", "▁desert", "▁photo", "▁of"]
    letters = ["▁", *string.ascii_letters, *string.digits, *"@#:/.,!?<>[]'’-_"]
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(word, -3.0) for word in words] + [(letter, -6.0) for letter in letters] + [("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocabulary)


@pytest.fixture(scope="session")
def xlm_r_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xlm-r")
    tokenizer = xlm_r_tokenizer()
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "jordan", "paris", "love", "in", "court", "the"]
    pieces += [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *"[]/<>@#.:"]
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bpe() -> Any:
    """A byte-level BPE that puts no space before the first word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["love the Jordan in Paris court desert photo of name"] * 20, trainer)
    special = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": 400, "max_position_embeddings": 64}


def saved_encoder(folder: Path, tokenizer: Any, kind: str, options: dict[str, Any]) -> Path:
    """A checkpoint of random weights, with the config class `kind`."""
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**_IDS | options)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ambiguous_views(n: int, seed: int) -> list[View]:
    """Posts with a name that the context alone tells to be a person or a place."""
    rng = random.Random(seed)
    views = []
    for number in range(n):
        kind, context = rng.choice([("PER", "photo of court"), ("LOC", "photo of desert")])
        tokens = rng.choice([["love", "Jordan"], ["in", "the", "Jordan"], ["Paris", "Jordan", "love"]])
        labels = [f"B-{kind}" if word == "Jordan" else "O" for word in tokens]
        if tokens[0] == "Paris":
            labels[:2] = [f"B-{kind}", f"I-{kind}"]
        views.append(View(str(number), tokens, labels, context))
    return views


def small_params(encoder: Path, **changes: object) -> TrainParams:
    settings = {
        "encoder": str(encoder),
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 3e-3,
        "max_length": 32,
        "crf_learning_rate": 0.05,
        "max_context": 12,
        "stride": 8,
        "seed": 3,
    } | changes
    return TrainParams.model_validate(settings)


@pytest.fixture(scope="session")
def tagger_folder(xlm_r_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tagger whose scores are wide apart, so that it finds entities everywhere."""
    folder = tmp_path_factory.mktemp("tagger")
    torch.manual_seed(4)
    labels = scheme_labels([["B-PER", "B-LOC"]])
    model = ItaTagger.from_encoder(xlm_r_folder, labels, small_params(xlm_r_folder), local_files_only=True)
    with torch.no_grad():
        model.emission.weight.mul_(20)
    model.save_pretrained(folder)
    load_tokenizer(xlm_r_folder, local_files_only=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tagger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That tagger as an ONNX graph of the text-only view."""
    return onnx.export(tagger_folder, tmp_path_factory.mktemp("onnx") / "tagger")


def many_views(n: int = 90) -> list[View]:
    """Posts of many lengths, some longer than a window, with words that no tokenizer likes."""
    words = ["love", "Jordan", "Paris", "in", "the", "ab", "\u200b", "</s>"]
    return [
        View(
            str(number),
            [words[(number * 7 + place * 3) % 8] for place in range(1 + number * 5 % 23)],
            None,
            "photo of court" if number % 3 else "",
        )
        for number in range(n)
    ]


SHOWN = {"court.jpg": "ball", "desert.jpg": "cactus"}
"""The pictures that :func:`pictured` names, and the object on each."""


def synthetic_pictures(folder: Path) -> tuple[Path, Path]:
    """Features of 4 regions × 6 and objects of those pictures, as their stages write them: a folder and a file."""
    with features.writing(folder / "features", "print") as writer:
        for number, image in enumerate(SHOWN):
            writer.add(image, str(number) * 64, "ok", None, np.full((4, 6), 2 - 4 * number, np.float16))
        writer.add("torn.jpg", "2" * 64, "truncated", "cut short", None)
    rows = [
        {
            "image": image,
            "sha256": str(number) * 64,
            "status": "ok",
            "error": None,
            "objects": [{"label": label, "attribute": None, "score": 0.9, "box": [0, 0, 1, 1]}],
        }
        for number, (image, label) in enumerate(SHOWN.items())
    ]
    rows.append({"image": "torn.jpg", "sha256": "2" * 64, "status": "truncated", "error": "cut short", "objects": []})
    file = folder / "objects.jsonl"
    file.write_text("".join(records.as_json(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "features", file


def synthetic_visuals(folder: Path) -> Visuals:
    """:func:`synthetic_pictures`, to be looked up."""
    found, objects = synthetic_pictures(folder)
    assert Features.open(found).width == 6
    return Visuals.open(found, objects)


def pictured(posts: Sequence[View]) -> list[View]:
    """Posts with the picture that their context is of: twice that one for some, none for some, a torn one for some."""
    named = [{"court": "court.jpg", "desert": "desert.jpg"}.get((post.context.split() or [""])[-1]) for post in posts]
    images = [
        [image] * (1 + place % 2) if image and place % 5 else ["torn.jpg"] * (place % 2)
        for place, image in enumerate(named)
    ]
    return [replace(post, images=some) for post, some in zip(posts, images, strict=True)]


def system_params(encoder: Path, system: str, **changes: Any) -> TrainParams:
    """Small params of any system."""
    options = {"rpbert": {"lstm_layers": 1, "lstm_width": 8}, "iie4mner": {"fusion_dropout": 0.1}}
    own = {system: options.get(system, {}) | changes.pop("options", {})}
    return small_params(encoder, model=system, **own, **changes)


def system_folder(system: str, encoder: Path, folder: Path, **options: Any) -> Path:
    """An untrained tagger of a system, of which pictures change what it finds."""
    torch.manual_seed(4)
    facts: dict[str, Any] = {}
    if system != "ita":
        facts = {"region_width": 6, "n_cells": 4, "fingerprint": "print", "object_labels": []}
    if system == "iie4mner":
        facts |= {"object_labels": sorted(SHOWN.values()), "words": ["Jordan", "love"], "word_width": 5}
    params = system_params(encoder, system, options=options)
    labels = scheme_labels([["B-PER", "B-LOC"]])
    model: Any = tagger_class(system).from_encoder(encoder, labels, params, facts=facts, local_files_only=True)
    with torch.no_grad():
        (model.head if system == "rpbert" else model.emission).weight.mul_(20)
        if system == "rpbert":
            model.projection.weight.mul_(5)
        if system == "iie4mner":
            model.table[2:].normal_(std=20)
            model.objects.weight.mul_(50)
    model.save_pretrained(folder)
    load_tokenizer(encoder, local_files_only=True).save_pretrained(folder)
    return folder


IMAGES = (("a.jpg",), (), ("torn.jpg", "b.jpg"), ("a.jpg", "b.jpg"), ("torn.jpg",), ("b.jpg",))


def pictured_views(n: int = len(IMAGES)) -> list[View]:
    """Posts with one picture, with none, with two, and with one that has no features."""
    posts = ambiguous_views(n, seed=3)
    return [replace(post, context="", images=list(IMAGES[row % len(IMAGES)])) for row, post in enumerate(posts)]


@pytest.fixture(scope="session")
def visuals(tmp_path_factory: pytest.TempPathFactory) -> Visuals:
    """Features of a.jpg and b.jpg, [4, 6]; torn.jpg has none."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(7)
    with features.writing(folder / "features", "print") as writer:
        for number, image in enumerate(["a.jpg", "b.jpg"], 1):
            writer.add(image, str(number) * 64, "ok", None, rng.normal(size=(4, 6)).astype(np.float16))
        writer.add("torn.jpg", None, "truncated", "ends early", None)
    return Visuals(Features.open(folder / "features"), None)


def tagger_of(model: TaggerModel, folder: Path, visuals: Visuals | None) -> Tagger:
    """A tagger of a model on the encoder of `folder`, shown what pictures give, where there is something."""
    tagger = Tagger(model.eval(), view_encoder(load_tokenizer(folder, local_files_only=True), model.config))
    if visuals is not None:
        tagger.show(visuals)
    return tagger


@pytest.fixture(scope="session")
def rpbert_tagger(xlm_r_folder: Path, visuals: Visuals) -> Tagger:
    """An untrained RpBERT whose scores are wide apart, so that it finds entities everywhere."""
    torch.manual_seed(1)
    params = small_params(xlm_r_folder, model="rpbert", rpbert={"lstm_layers": 1, "lstm_width": 16})
    labels = scheme_labels([["B-PER", "B-LOC"]])
    facts = visuals.facts([])
    model = RpbertTagger.from_encoder(xlm_r_folder, labels, params, facts=facts, local_files_only=True)
    assert model.projection is not None
    assert model.relation_head is not None
    with torch.no_grad():
        torch.nn.init.normal_(model.projection.weight)
        model.relation_head.weight.mul_(5)
        model.head.weight.mul_(20)
    return tagger_of(model, xlm_r_folder, visuals)
