"""transformers' Trainer for the tagger: learning rates per group, length-grouped batches, dev F1, and its callbacks.

A subclass, so that mixed precision, accumulation, clipping and checkpoints are transformers' own. What goes in and
where the result lies is left to :mod:`ner.training.run`.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ner.decoding import decode_labels
from ner.scoring.f1 import score
from ner.training import processes
from ner.views import EncodedView, ViewBatch, collate
from pipeline.core.files import write_json
from pipeline.settings.params import TrainParams

ViewName = Literal["text_only", "cross_modal"]
COMPLETE = "complete"  # a file, written last, that marks a checkpoint as whole and lists what is in it
TERMS = ("nll_text_only", "nll_cross_modal", "alignment")
_BUCKET_BATCHES = 50  # batches among which examples are sorted by length


@dataclass(frozen=True, slots=True)
class Example:
    """A tweet ready for training: its encoded views (those the tagger trains on) and label indices."""

    views: dict[ViewName, EncodedView]
    labels: list[int]

    @property
    def width(self) -> int:
        """Sub-tokens of all views together: what the example costs."""
        return sum(view.width for view in self.views.values())


class TaggerTrainer(Trainer):
    """The Trainer, with learning rates per group, length-grouped batches, and dev F1 of both views as evaluation."""

    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    def __init__(
        self,
        *,
        params: TrainParams,
        dev_views: Mapping[ViewName, Sequence[EncodedView]],
        dev_labels: Sequence[Sequence[str]],
        pad_id: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.params, self.dev_views, self.dev_labels, self.pad_id = params, dev_views, dev_labels, pad_id
        self._terms: dict[str, Tensor] = {}
        self._n_parts = 0
        self._tweets_a_part = 0.0
        # Several processes exchange gradients while they are being made, and could not exchange sparse ones.
        if self.args.device.type == "cpu" and self.args.world_size == 1:
            embeddings = [module for module in self.model.modules() if isinstance(module, nn.Embedding)]
            keep_gradient(max(embeddings, key=lambda embedding: embedding.weight.numel()))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with a learning rate for the CRF's scores and one for all else; only matrices of the latter decay."""
        if self.optimizer is None:
            named = list(self.model.named_parameters())
            crf = [parameter for name, parameter in named if name.startswith("crf.")]
            rest = [parameter for name, parameter in named if not name.startswith("crf.")]
            decayed = [parameter for parameter in rest if parameter.ndim > 1]
            plain = [parameter for parameter in rest if parameter.ndim <= 1]
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(
                [
                    {"params": decayed, "weight_decay": self.args.weight_decay},
                    {"params": plain, "weight_decay": 0.0},
                    {"params": crf, "weight_decay": 0.0, "lr": self.params.crf_learning_rate},
                ],
                **options,
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> "LengthGroupedSampler":
        examples = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler([example.width for example in examples], self.params.batch_size, self.params.seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's loss, a part's tweets weighing as those of its step; its terms are summed up for the log."""
        outputs = model(**inputs, alignment_scale=self._alignment_scale())
        self._n_parts += 1
        for name in TERMS:
            if name in outputs:
                self._terms[name] = self._terms.get(name, 0.0) + outputs[name].detach()
        loss = outputs["loss"] * (len(inputs["labels"]) / self._tweets_a_part)
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """A step's parts. The Trainer takes the mean of their losses, however many tweets each of them has."""
        parts, n_items = super().get_batch_samples(*args, **kwargs)
        self._tweets_a_part = sum(len(part["labels"]) for part in parts) / max(1, len(parts))
        return parts, n_items

    def _alignment_scale(self) -> float:
        """How far the KL term's weight has risen at this step: linearly, from 0, over `alignment_warmup`."""
        n_steps = self.params.alignment_warmup * self.state.max_steps
        return min(1.0, self.state.global_step / n_steps) if n_steps else 1.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss's terms to the epoch's log."""
        if "loss" in logs:
            for name, total in self._terms.items():
                logs[name] = float(self.accelerator.reduce(total, "mean")) / self._n_parts
            self._terms, self._n_parts = {}, 0
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Strict dev micro-F1 of each trained view, and their mean."""
        self.model.eval()
        bfloat16, batch_size = self.params.precision == "bfloat16", 2 * self.params.batch_size
        metrics = {}
        for name, encoded in self.dev_views.items():
            predicted = decode_labels(self.model, encoded, self.pad_id, batch_size, bfloat16=bfloat16)
            metrics[f"{metric_key_prefix}_f1_{name}"] = score(self.dev_labels, predicted)["strict"]["micro"]["f1"]
        metrics[f"{metric_key_prefix}_f1"] = sum(metrics.values()) / len(metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: counting parameters at every step costs more than the figure is worth."""
        return 0


class LengthGroupedSampler(Sampler[int]):
    """Examples in an order, new each epoch, in which each batch holds examples of similar length.

    The order depends on seed and epoch alone, so a resumed training meets the same batches. Only the epoch's last batch
    may be smaller than the others.
    """

    def __init__(self, widths: Sequence[int], batch_size: int, seed: int) -> None:
        self.widths, self.batch_size, self.seed, self.epoch = widths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.widths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; called by accelerate's data loader."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.widths), generator=generator).tolist()
        n_whole = len(order) - len(order) % self.batch_size
        bucket = self.batch_size * _BUCKET_BATCHES
        batches = []
        for start in range(0, n_whole, bucket):
            alike = sorted(order[start : min(start + bucket, n_whole)], key=self.widths.__getitem__)
            batches += [alike[place : place + self.batch_size] for place in range(0, len(alike), self.batch_size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        yield from order[n_whole:]


def collate_examples(
    examples: Sequence[Example], pad_id: int, context_dropout: float = 0.0
) -> dict[str, ViewBatch | Tensor]:
    """The keyword arguments of :meth:`ner.models.ita.CrossViewTagger.forward`.

    With `context_dropout`, each tweet's cross-modal view is replaced by its text-only view at that probability. The
    two then differ by the encoder's dropout alone, and the KL term is a one-sided R-Drop (Liang et al., NeurIPS 2021).
    """
    if context_dropout:
        dropped = (torch.rand(len(examples)) < context_dropout).tolist()
        examples = [
            replace(example, views={**example.views, "cross_modal": example.views["text_only"]}) if drop else example
            for example, drop in zip(examples, dropped, strict=True)
        ]
    longest = max(len(example.labels) for example in examples)
    labels = torch.tensor([[*example.labels, *[0] * (longest - len(example.labels))] for example in examples])
    batches: dict[str, ViewBatch | Tensor] = {
        name: collate([example.views[name] for example in examples], pad_id) for name in examples[0].views
    }
    return {**batches, "labels": labels}


def keep_gradient(embedding: nn.Embedding) -> None:
    """Have an embedding's gradient lie in the same memory at every step.

    Autograd would take new memory for all rows and clear it, at each step: 1 GB for XLM-R large, of which a batch
    reads some hundred rows. What stands in `.grad` is dense as ever, until the next step overwrites it.
    """
    if embedding.sparse:  # prepared before
        return
    embedding.sparse = True
    kept = torch.zeros_like(embedding.weight)

    def densify(weight: Tensor) -> None:
        if weight.grad is not None and weight.grad.is_sparse:  # the step's first; later ones are added to it by torch
            weight.grad = kept.zero_().add_(weight.grad)

    embedding.weight.register_post_accumulate_grad_hook(densify)


def patience_is_out(state: TrainerState, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better dev score."""
    scores = [logs["eval_f1"] for logs in state.log_history if "eval_f1" in logs]
    return patience is not None and bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


class MarkComplete(TrainerCallback):
    """Marks a checkpoint as whole once all of it is written, by a list of its files and their sizes.

    The list also tells when a kill struck while the Trainer was deleting a checkpoint, the mark last.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        processes.wait()  # each process writes the state of its own random numbers
        if processes.is_first():
            write_json(folder / COMPLETE, _sizes(folder))


def is_complete(checkpoint: Path) -> bool:
    """Whether all the files are there that :class:`MarkComplete` listed, each of its size."""
    try:
        expected = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(expected == _sizes(checkpoint))


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE
    }


class EarlyStopping(TrainerCallback):
    def __init__(self, patience: int | None) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if patience_is_out(state, self.patience):
            control.should_training_stop = True


class Progress(TrainerCallback):
    """A bar over all steps on a terminal; a line an epoch anywhere. Both on stderr."""

    bar: tqdm | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not (sys.stderr.isatty() and processes.is_first()),
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not processes.is_first():
            return
        logs = {**next((logs for logs in reversed(state.log_history) if "loss" in logs), {}), **state.log_history[-1]}
        scores = ", ".join(
            f"{key.removeprefix('eval_f1_')} {100 * value:.2f}"
            for key, value in logs.items()
            if key.startswith("eval_f1_")
        )
        tqdm.write(
            f"epoch {round(state.epoch or 0)}/{round(args.num_train_epochs)}: "
            f"loss {logs.get('loss', float('nan')):.4f}, dev F1 (strict) {scores}",
            file=sys.stderr,
        )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class Curves(TrainerCallback):
    """Loss terms and dev F1 of every epoch through DVCLive; a resumed training writes its earlier epochs anew."""

    live: Any = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        from dvclive import Live

        # The root dvc.yaml names plots and metrics; DVCLive must write neither a dvc.yaml nor an experiment.
        self.live = Live(str(self.folder), dvcyaml=None, save_dvc_exp=False, report=None)
        losses: dict[str, float] = {}
        for logs in state.log_history:
            if "loss" in logs:
                losses = logs
            elif "eval_f1" in logs:
                self._write({**losses, **logs})

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        losses: dict[str, float] = next((logs for logs in reversed(state.log_history) if "loss" in logs), {})
        self._write({**losses, **state.log_history[-1]})

    def _write(self, logs: Mapping[str, float]) -> None:
        self.live.step = round(logs["epoch"])
        for name in ("loss", *TERMS):
            if name in logs:
                self.live.log_metric(f"train/{name}", float(logs[name]))
        for name in ("f1", "f1_text_only", "f1_cross_modal"):
            if f"eval_{name}" in logs:
                self.live.log_metric(f"dev/{name}", float(logs[f"eval_{name}"]))
        self.live.make_summary()
