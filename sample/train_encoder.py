"""Makes `checkpoints/sample/xlm-r`: a small XLM-R with a SentencePiece tokenizer of its own.

Both are trained on posts and contexts drawn from the sample's generator with seeds that the data set does not have,
and without the names that only its test split has. What is measured on held-out posts goes into the card.
"""

import argparse
import io
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
    get_linear_schedule_with_warmup,
)

from pipeline.contexts.template import render
from pipeline.core.checksums import seal
from pipeline.core.files import atomic_write
from pipeline.core.records import Caption, ObjectTag, TextLine
from pipeline.settings import params
from pipeline.settings.params import ViewsParams
from sample.dataset import KINDS, draw, roles
from sample.render import HELD_OUT_SPACE, TRAINING_SPACE, Spec, caption, random_sign
from sample.text import Names

FOLDER = Path("checkpoints/sample/xlm-r")
VOCABULARY = 2800
POSTS, HELD_OUT_POSTS = 48_000, 1_000
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.05,  # the usual 0.02 is for widths of 1,024: here attention would take long to form
    "hidden_dropout_prob": 0.0,  # every post is seen a few times only: dropout would do nothing but slow it down
    "attention_probs_dropout_prob": 0.0,
}
DROPOUT = 0.1  # what fine-tuning finds in the config, as in the real checkpoint
EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 24, 1.5e-3
SEED = 7
Inputs = dict[str, torch.Tensor]


def pairs(space: int, count: int) -> Iterator[tuple[str, str]]:
    """Posts and their contexts, in words.

    Names of one type stand in open clauses, too, with a picture that goes with them: what pictures come with which
    names is what there is to learn from text alone. The ambiguous names stand evenly with everything, and some names
    are made up. Unrelated pictures are half as frequent as in the data set, and two contexts of three hold no more
    than the kind that matters, as where kinds are left out: a cue that stands alone is found first.
    """
    template = params.load().views
    rng = random.Random(space)
    names = Names(rng, invented=0.15, known=0.65)
    for position, role in enumerate(roles(count, rng)):
        if role == "unrelated" and rng.random() < 0.5:
            role = rng.choice(list(KINDS))
        post, spec = draw(names, role, (space, position))
        kinds = [role] if role in KINDS and rng.random() < 2 / 3 else list(KINDS)
        shown = template.model_copy(update={"kinds": list(kinds)})
        context = context_of(spec, shown, np.random.default_rng([space, position, 1])) if spec else ""
        yield " ".join(post.tokens), context


def context_of(spec: Spec, template: ViewsParams, rng: np.random.Generator) -> str:
    """What extractors without a fault would say of a picture, rendered as the stage `views` does it."""
    tags = [ObjectTag(thing.label) for thing in spec.things]
    rng.shuffle(tags)
    sign = spec.sign
    if sign is None and rng.random() < 0.2:
        sign = random_sign(rng)  # any words at all, for the vocabulary
    return render(
        template, {"objects": tags, "captions": [Caption(caption(spec))], "ocr": [TextLine(sign)] if sign else []}
    )


def train_tokenizer(texts: Sequence[str], folder: Path) -> None:
    """Train a unigram SentencePiece model and save it as an XLM-R tokenizer, pieces in fairseq's order of ids."""
    model = io.BytesIO()
    # The random end of an address would take pieces that words need.
    lines = (re.sub(r"(http://t\.co/)\S+", r"\1", text) for text in texts)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=VOCABULARY, model_type="unigram",
        character_coverage=1.0, normalization_rule_name="nmt_nfkc", num_threads=1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "sentencepiece.bpe.model").write_bytes(model.getvalue())
        tokenizer = XLMRobertaTokenizer.from_pretrained(scratch)
    tokenizer.model_max_length = SHAPE["max_position_embeddings"] - 2
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Encoded:
    """Sub-token ids of a post and its context; `runs`: which run of capitalised words each belongs to, or -1."""

    ids: list[int]
    runs: list[int]


def encode(tokenizer: XLMRobertaTokenizer, posts: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Sub-tokens of a post alone, where it has no picture, or of post and context with separators between."""
    encoded = []
    for post, context in posts:
        words = post.split(" ")
        pieces = tokenizer(words, context.split(" ") if context else None, is_split_into_words=True)
        capitalised = [word[:1].isupper() and word != "RT" for word in words]
        starts = [is_name and not (place and capitalised[place - 1]) for place, is_name in enumerate(capitalised)]
        run_of = np.where(capitalised, np.cumsum(starts), -1)
        runs = [
            int(run_of[word]) if word is not None and sequence == 0 else -1
            for word, sequence in zip(pieces.word_ids(), pieces.sequence_ids(), strict=True)
        ]
        encoded.append(Encoded(pieces.input_ids, runs))
    return encoded


@dataclass(frozen=True)
class Masking:
    """What is masked, and with what.

    A run of capitalised words, a name mostly, is masked as one and more often than the rest ("salient spans", Guu et
    al. 2020, REALM): part of a name would give the rest away, and nothing of the picture would be needed.
    """

    names: float = 0.5  # share of runs of capitalised words that are to be restored
    others: float = 0.2  # of all other sub-tokens
    wrong: float = 0.15  # of what is to be restored: replaced by a random sub-token …
    kept: float = 0.15  # … or left as it is; the rest becomes <mask>


def mask(batch: Sequence[Encoded], tokenizer: XLMRobertaTokenizer, how: Masking, rng: np.random.Generator) -> Inputs:
    """Padded input_ids, attention_mask and labels [B, S]; labels are -100 where nothing is to be restored."""
    width = max(len(post.ids) for post in batch)
    ids = np.full((len(batch), width), tokenizer.pad_token_id)
    runs = np.full((len(batch), width), -1)
    for row, post in enumerate(batch):
        ids[row, : len(post.ids)], runs[row, : len(post.ids)] = post.ids, post.runs
    special = np.isin(ids, tokenizer.all_special_ids)
    by_run = rng.random((len(batch), runs.max() + 2)) < how.names
    chosen = np.where(runs >= 0, np.take_along_axis(by_run, np.maximum(runs, 0), 1), rng.random(ids.shape) < how.others)
    chosen &= ~special
    chosen[0, 1] |= not chosen.any()  # never nothing at all
    fate = rng.random(ids.shape)
    shown = np.where(chosen & (fate >= how.wrong + how.kept), tokenizer.mask_token_id, ids)
    shown = np.where(chosen & (fate < how.wrong), rng.integers(4, tokenizer.mask_token_id, ids.shape), shown)
    return {
        "input_ids": torch.from_numpy(shown),
        "attention_mask": torch.from_numpy((ids != tokenizer.pad_token_id).astype(np.int64)),
        "labels": torch.from_numpy(np.where(chosen, ids, -100)),
    }


def batches(encoded: Sequence[Encoded], size: int, rng: random.Random | None) -> Iterator[list[Encoded]]:
    """Batches of similar length, in random order; in the given order without `rng`."""
    order = list(range(len(encoded)))
    if rng is not None:
        order.sort(key=lambda index: len(encoded[index].ids) + rng.uniform(0, 8))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    if rng is not None:
        rng.shuffle(groups)
    for group in groups:
        yield [encoded[index] for index in group]


def pretrain(folder: Path, count: int, epochs: int) -> None:
    """Train tokenizer and encoder on `count` posts and save both."""
    posts = list(pairs(TRAINING_SPACE, count))
    train_tokenizer([text for pair in posts for text in pair if text], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(SEED)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), **special, **SHAPE)
    model = XLMRobertaForMaskedLM(config)
    encoded = encode(tokenizer, posts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = epochs * -(-len(posts) // BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    rng, noise = random.Random(SEED), np.random.default_rng(SEED)
    model.train()
    started, step = time.monotonic(), 0
    for _ in range(epochs):
        for batch in batches(encoded, BATCH_SIZE, rng):
            loss = masked_loss(model, mask(batch, tokenizer, Masking(), noise))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step % 100 == 0:
                print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = DROPOUT
    model.save_pretrained(folder)
    seal(folder)


def masked_loss(model: XLMRobertaForMaskedLM, inputs: Inputs) -> torch.Tensor:
    """Mean cross-entropy of the masked sub-tokens; the vocabulary's logits of the others are not computed."""
    hidden = model.roberta(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    masked = inputs["labels"] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[masked]), inputs["labels"][masked])


@torch.inference_mode()
def masked_accuracy(folder: Path) -> tuple[float, int]:
    """How many masked sub-tokens of held-out posts and contexts the encoder restores, and of how many."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    plain, noise = Masking(names=0.15, wrong=0.0, kept=0.0), np.random.default_rng(SEED)
    right = total = 0
    for batch in batches(encode(tokenizer, list(pairs(HELD_OUT_SPACE, HELD_OUT_POSTS))), BATCH_SIZE, None):
        inputs = mask(batch, tokenizer, plain, noise)
        masked = inputs["labels"] != -100
        restored = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.argmax(-1)
        right += int((restored == inputs["labels"])[masked].sum())
        total += int(masked.sum())
    return right / total, total


def card(folder: Path, accuracy: float, total: int) -> str:
    """The README that lies beside the weights."""
    parameters = sum(weight.numel() for weight in AutoModelForMaskedLM.from_pretrained(folder).parameters())
    return f"""# A small XLM-R for the sample data set

{SHAPE["num_hidden_layers"]} layers, width {SHAPE["hidden_size"]}, {parameters / 1e6:.2f} M parameters, and a unigram
SentencePiece tokenizer of {VOCABULARY} pieces; the architecture and the layout of files of `xlm-roberta-large`.

**Made by** `python -m sample.train_encoder`: tokenizer and masked language modelling on {POSTS:,} posts
with contexts from the sample's generator, {EPOCHS} epochs, one core, some ten minutes. Names are masked as a whole and
more often than other words. The seeds are not the data set's, and the names that only the test split has do not occur.
Ambiguous names stand evenly with everything, as in the data set; names of one type also stand in clauses that fit any
type, with pictures that go with them. The true objects, scenes and signs stand in for what extractors read, so no
picture is drawn.

**Quality**: {accuracy:.1%} of {total:,} masked sub-tokens (15 %) restored in {HELD_OUT_POSTS:,} held-out posts with
contexts, measured by `python -m sample.train_encoder --measure`. Names, addresses and what a picture shows cannot be
guessed, so no encoder comes near 100 %.

Good for the sample and for tests. It knows no language.
"""


def main() -> None:
    """Train and write the card, or measure alone."""
    parser = argparse.ArgumentParser(description="Pretrain the sample's XLM-R encoder.")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--posts", type=int, default=POSTS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--measure", action="store_true", help="only measure the encoder that is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.measure:
        options.output.mkdir(parents=True, exist_ok=True)
        pretrain(options.output, options.posts, options.epochs)
    accuracy, total = masked_accuracy(options.output)
    print(f"masked sub-tokens restored: {accuracy:.4f} of {total}")
    if not options.measure:
        with atomic_write(options.output / "README.md") as file:
            file.write(card(options.output, accuracy, total))


if __name__ == "__main__":
    main()
