"""The contestants of the training benchmark: what they start from, and a turn of each (:mod:`benchmarks.training`)."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import synchronize
from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.files import read_jsonl, write_json, write_jsonl
from pipeline.core.records import View
from pipeline.settings.training import TrainParams

TEMPERATURE = 4.0


class Still(torch.optim.Optimizer):
    """An optimiser that moves nothing."""

    def __init__(self, params: Any, lr: float = 1e-4) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


def prepare(encoder: Path, views: Path, scratch: Path, batch_size: int, n_batches: int) -> list[float]:
    """What all sides start from, in `scratch`: an untrained tagger, the posts' encoded views, the order of both kinds.

    Returns:
        sub-tokens and padding a batch, of both views.
    """
    from ner.bioes import scheme_labels, to_scheme
    from ner.interop.flair.training import encoded_rows
    from ner.models.folder import load_tokenizer, quietly, view_encoder
    from ner.models.ita import ItaTagger
    from ner.training.sampler import LengthGroupedSampler

    posts = [view for view in records.read(views, View, "views") if view.labels and view.context][
        : batch_size * n_batches
    ]
    if len(posts) < batch_size * n_batches:
        raise UserError(f"{views}: {len(posts)} labelled posts with a context, expected {batch_size * n_batches}")
    params = TrainParams(encoder=str(encoder), batch_size=batch_size)
    with quietly():
        torch.manual_seed(1)
        tokenizer = load_tokenizer(encoder, local_files_only=True)
        labels = scheme_labels(view.labels or [] for view in posts)
        model = ItaTagger.from_encoder(encoder, labels, params, local_files_only=True)
        model.save_pretrained(scratch / "start")
        tokenizer.save_pretrained(scratch / "start")
        rows = list(encoded_rows(posts, view_encoder(tokenizer, model.config), params))
    for row in rows:
        row["bioes"] = to_scheme(row["labels"])
    write_jsonl(scratch / "rows.jsonl", rows)
    widths = {name: [len(row[name]["input_ids"]) for row in rows] for name in ("text_only", "cross_modal")}
    both = [sum(pair) for pair in zip(*widths.values(), strict=True)]
    orders = {
        kind: list(LengthGroupedSampler(width, batch_size, seed=1))
        for kind, width in (("text", widths["text_only"]), ("both", both))
    }
    write_json(scratch / "orders.json", {"batch_size": batch_size, "pad_id": tokenizer.pad_token_id, **orders})
    padded = sum(
        batch_size * max(width[place] for place in orders["both"][start : start + batch_size])
        for start in range(0, len(posts), batch_size)
        for width in widths.values()
    )
    return [sum(both) / n_batches, padded / sum(both) - 1]


class Work:
    """What :func:`prepare` wrote, as a side reads it."""

    def __init__(self, scratch: Path, kind: str, precision: str = "float32") -> None:
        orders = json.loads((scratch / "orders.json").read_text(encoding="utf-8"))
        self.scratch, self.start, self.kind, self.batch_size = scratch, scratch / "start", kind, orders["batch_size"]
        self.precision = precision
        self.pad_id: int = orders["pad_id"]
        self.order: list[int] = orders[kind]
        self.rows = list(read_jsonl(scratch / "rows.jsonl"))
        self.params = TrainParams(
            encoder="start", views="both" if kind == "both" else "text_only", temperature=TEMPERATURE
        )

    def batches(self) -> Iterator[list[int]]:
        """The posts of each batch, in order."""
        for start in range(0, len(self.order), self.batch_size):
            yield self.order[start : start + self.batch_size]


def seconds_of(action: Callable[[], object], device: str, precision: str) -> float:
    """How long an action takes, in float32 or under autocast to bfloat16."""
    synchronize(device)
    begin = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        action()
    synchronize(device)
    return time.perf_counter() - begin


def plain_encoder(work: Work, device: str) -> Any:
    """transformers' own encoder, with random weights, in training mode."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(**json.loads((work.start / "config.json").read_text(encoding="utf-8"))["encoder"])
    encoder = AutoModel.from_config(config).to(device).train()
    encoder.pooler = None
    return encoder


def encoder_alone(work: Work, device: str) -> Callable[[], float]:
    """transformers' own encoder, forward and backward, on as many sub-tokens a view and batch, none of them padding.

    A batch's sub-tokens are dealt out to its posts in equal lengths, so no mask is needed either.
    """
    encoder = plain_encoder(work, device)
    names = ("text_only", "cross_modal") if work.kind == "both" else ("text_only",)
    inputs = []
    for batch in work.batches():
        for name in names:
            pieces = [piece for place in batch for piece in work.rows[place][name]["input_ids"]]
            length = round(len(pieces) / len(batch))
            pieces = (pieces + pieces)[: length * len(batch)]
            inputs.append(torch.tensor(pieces, device=device).view(len(batch), length))
    upstream = [torch.randn(*ids.shape, encoder.config.hidden_size, device=device) for ids in inputs]

    def action() -> None:
        for ids, gradient in zip(inputs, upstream, strict=True):
            encoder(input_ids=ids).last_hidden_state.backward(gradient)
        encoder.zero_grad()

    return lambda: seconds_of(action, device, work.precision)


def our_step(work: Work, device: str, views: str = "both") -> Callable[[], float]:
    """A full step but for the optimiser's: batches put together, forward, backward."""
    return step_of(tagger_in(work.start, device), examples_of(work), work, device, views)


def step_of(model: Any, examples: Sequence[Any], work: Work, device: str, views: str) -> Callable[[], float]:
    """A step of a tagger on examples, its batches put together from the work's posts.

    Args:
        model: the tagger, in training mode; its settings of views and temperature are set here.
        examples: :class:`ner.training.sampler.Example`, a post of the work each.
        work: which posts make the batches.
        device: that the model is on.
        views: that it is trained on.

    Returns:
        a function that makes the steps, and says how many seconds they took.
    """
    from ner.training.sampler import collate_examples

    model.config.views, model.config.temperature = views, TEMPERATURE

    def action() -> None:
        for batch in work.batches():
            inputs = _moved(collate_examples([examples[place] for place in batch], work.pad_id), device)
            model(**inputs)["loss"].backward()
        model.zero_grad()

    return lambda: seconds_of(action, device, work.precision)


def our_trainer(work: Work, device: str, bfloat16: bool) -> Callable[[], float]:
    """An epoch of our trainer."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments

    from ner.training.sampler import collate_examples
    from ner.training.trainer import TaggerTrainer

    class Clock(TrainerCallback):
        begin = seconds = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.begin

    model, examples, clock = tagger_in(work.start, device), examples_of(work), Clock()
    model.config.views, model.config.temperature = work.params.views, TEMPERATURE
    params = work.params.model_copy(update={"batch_size": work.batch_size, "seed": 1})
    arguments = TrainingArguments(
        output_dir=str(work.start),
        num_train_epochs=1,
        per_device_train_batch_size=work.batch_size,
        bf16=bfloat16,
        max_grad_norm=5.0,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        report_to="none",
    )

    def turn() -> float:
        optimizer = Still(model.parameters())
        trainer = TaggerTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            callbacks=[clock],
            params=params,
            dev_views={},
            dev_labels=[],
            pad_id=work.pad_id,
            data_collator=lambda batch: collate_examples(batch, work.pad_id),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        )
        for unwanted in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(unwanted)
        trainer.train()
        return clock.seconds

    return turn


def flair_trainer(work: Work, device: str, bfloat16: bool, *, own_order: bool = False) -> Callable[[], float]:
    """An epoch of flair's: on text alone just as flair is, on both views by the objective written in it.

    Its batches are those of our trainer; in its `own_order`, those that flair draws by itself, shuffled.
    """
    import flair
    from flair.data import Corpus, Sentence
    from flair.datasets import FlairDatapointDataset
    from flair.samplers import FlairSampler
    from flair.trainers import ModelTrainer
    from flair.trainers.plugins import TrainerPlugin

    from ner.interop.flair.bridge import TAG_TYPE, quiet_flair, to_flair
    from ner.interop.flair.folder import TaggerFolder
    from ner.interop.flair.trainer import SizeOfBatch, sentences_of, tagger_of
    from pipeline.core.labels import entities

    class InOrder(FlairSampler):
        def __iter__(self) -> Iterator[int]:
            return iter(work.order)

    class Clock(TrainerPlugin):
        begin = seconds = 0.0

        @TrainerPlugin.hook
        def before_training_epoch(self, **_: Any) -> None:
            self.begin = time.perf_counter()

        @TrainerPlugin.hook
        def after_training_epoch(self, **_: Any) -> None:
            self.seconds = time.perf_counter() - self.begin

    flair.device = torch.device(device)
    quiet_flair()
    folder = TaggerFolder(work.start)
    if work.kind == "both":
        model: Any = tagger_of(folder, work.params)
        sentences = sentences_of(work.rows, "both")
    else:
        model, sentences = to_flair(folder), []
        for row in work.rows:
            sentence = Sentence(row["tokens"])
            for first, last, entity_type in entities(row["labels"], "conlleval"):
                sentence[first:last].add_label(TAG_TYPE, entity_type)
            sentences.append(sentence)
    corpus = Corpus(train=FlairDatapointDataset(sentences), sample_missing_splits=False)

    def turn() -> float:
        clock = Clock()
        plugins = [clock, SizeOfBatch()] if work.kind == "both" else [clock]
        with tempfile.TemporaryDirectory() as scratch:
            ModelTrainer(model, corpus).train_custom(
                base_path=scratch,
                learning_rate=1e-4,
                mini_batch_size=work.batch_size,
                max_epochs=1,
                optimizer=Still,
                sampler=None if own_order else InOrder(),
                shuffle=own_order,
                max_grad_norm=5.0,
                use_amp=bfloat16,
                embeddings_storage_mode="none",
                use_final_model_for_eval=True,
                save_final_model=False,
                create_file_logs=False,
                create_loss_file=False,
                plugins=plugins,
            )
        return clock.seconds

    return turn


def tagger_in(folder: Path, device: str) -> Any:
    """The tagger in a folder, in training mode."""
    from ner.models.folder import load_tagger, quietly

    with quietly():
        model, _ = load_tagger(folder)
    return model.to(device).train()


def examples_of(work: Work) -> list[Any]:
    """The posts as a training has them, with the views of this kind of work."""
    from ner.training.sampler import Example
    from ner.views import EncodedView, ViewName

    labels = json.loads((work.start / "config.json").read_text(encoding="utf-8"))["tag_labels"]
    index = {label: place for place, label in enumerate(labels)}
    names: list[ViewName] = ["text_only", "cross_modal"] if work.kind == "both" else ["text_only"]

    def encoded(ids: list[int], firsts: list[int]) -> EncodedView:
        return EncodedView([ids], [0] * len(firsts), firsts, [first + 1 for first in firsts], [len(ids) - 1], "")

    return [
        Example(
            {name: encoded(row[name]["input_ids"], row[name]["firsts"]) for name in names},
            [index[label] for label in row["bioes"]],
        )
        for row in work.rows
    ]


def _moved(inputs: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch on another device."""
    if device == "cpu":
        return inputs
    return {
        name: value.to(device)
        if isinstance(value, torch.Tensor)
        else {key: tensor.to(device) for key, tensor in value.items()}
        for name, value in inputs.items()
    }


SIDES: dict[str, tuple[str, Callable[[Work, str], Callable[[], float]]]] = {
    "encoder alone": ("both", encoder_alone),
    "our step": ("both", our_step),
    "our step, cross-modal alone": ("both", lambda work, device: our_step(work, device, "cross_modal")),
    "ours, text": ("text", lambda work, device: our_trainer(work, device, False)),
    "flair, text": ("text", lambda work, device: flair_trainer(work, device, False)),
    "flair, text, own order": ("text", lambda work, device: flair_trainer(work, device, False, own_order=True)),
    "ours, text, bfloat16": ("text", lambda work, device: our_trainer(work, device, True)),
    "flair, text, bfloat16": ("text", lambda work, device: flair_trainer(work, device, True)),
    "ours, both views": ("both", lambda work, device: our_trainer(work, device, False)),
    "flair, both views": ("both", lambda work, device: flair_trainer(work, device, False)),
    "flair, both views, own order": ("both", lambda work, device: flair_trainer(work, device, False, own_order=True)),
}
