"""transformers' Trainer for the taggers: parameter groups, length-grouped batches, the loss's terms, dev F1.

A subclass, so that mixed precision, accumulation, clipping and checkpoints are transformers' own. What it reads is
:mod:`ner.training.sampler`'s, what it calls back :mod:`ner.training.callbacks`'; what goes in and where the result lies
is left to :mod:`ner.training.run`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerControl

from ner.decoding import decode_labels
from ner.models.base import TaggerModel
from ner.models.losses import n_tweets
from ner.scoring.f1 import score
from ner.training.finite import FiniteLosses, NotFinite, not_finite
from ner.training.sampler import LengthGroupedSampler, MixedExamples, MixedSampler
from ner.views import EncodedView, ViewName
from pipeline.settings.training import TrainParams


class TaggerTrainer(Trainer):
    """The Trainer, with the model's parameter groups, length-grouped batches, and both views' dev F1."""

    model: TaggerModel
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
        self._losses = FiniteLosses()
        self._terms: dict[str, tuple[Tensor, int]] = {}  # sums, and of how many parts
        self._parts = _Counts(0, 0, 0, 0)  # the means over a step's parts
        # Several processes exchange gradients while they are being made, and could not exchange sparse ones.
        if self.args.device.type == "cpu" and self.args.world_size == 1:
            embeddings = [module for module in self.model.modules() if isinstance(module, nn.Embedding)]
            if embeddings:  # not those of an encoder with modules of its own kind
                keep_gradient(max(embeddings, key=lambda embedding: embedding.weight.numel()))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the groups that the model declares (:meth:`ner.models.base.TaggerModel.parameter_groups`)."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(self.model.parameter_groups(self.params), **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler | MixedSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        mixed = isinstance(dataset, MixedExamples)
        examples = dataset.examples if mixed else dataset
        n_apart = sum(example.relation is not None for example in examples)
        widths = [example.width for example in examples]
        n_labelled = len(dataset)
        labelled = LengthGroupedSampler(widths[:n_labelled], self.params.batch_size, self.params.seed, n_apart)
        return MixedSampler(labelled, widths[n_labelled:], self.params.unlabelled_ratio) if mixed else labelled

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's loss, a part's tweets weighing as those of its step; its terms are summed up for the log."""
        share, aligned, taught, targeted = (
            here / mean if mean else 0.0 for here, mean in zip(_counts(inputs), self._parts, strict=True)
        )
        scales = {
            "alignment_scale": self._alignment_scale() * (aligned / share),
            "teacher_scale": taught / share,
            "target_scale": targeted / share,
        }
        outputs = model(**inputs, **scales)
        self._losses.note(outputs["loss"], self.state.global_step + 1, self._rate())
        for name, term in outputs.items():
            if name != "loss":
                total, n_parts = self._terms.get(name, (torch.zeros_like(term), 0))
                self._terms[name] = total + term, n_parts + 1
        loss = outputs["loss"] * share
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """A step's parts. The Trainer takes the mean of their losses, however many tweets each of them has."""
        parts, n_items = super().get_batch_samples(*args, **kwargs)
        if parts:
            self._parts = _Counts(*(sum(each) / len(parts) for each in zip(*map(_counts, parts), strict=True)))
        return parts, n_items

    def _rate(self) -> float:
        return float(self.lr_scheduler.get_last_lr()[0]) if self.lr_scheduler is not None else 0.0

    def _alignment_scale(self) -> float:
        """How far the KL term's weight has risen at this step: linearly, from 0, over `alignment_warmup`."""
        n_steps = self.params.alignment_warmup * self.state.max_steps
        return min(1.0, self.state.global_step / n_steps) if n_steps else 1.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss's terms to the epoch's log."""
        if "loss" in logs:
            for name, (total, n_parts) in self._terms.items():
                logs[name] = float(self.accelerator.reduce(total, "mean")) / n_parts
            self._terms = {}
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Strict dev micro-F1 of each trained view, and their mean.

        Raises:
            NotFinite: the epoch that is to be scored, and saved, has made a loss or a weight NaN or infinite.
        """
        self._losses.check()
        if (name := not_finite(self.model.named_parameters())) is not None:
            raise NotFinite(self.state.global_step, self._rate(), f"the weight {name} is not finite")
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


class _Counts(NamedTuple):
    """How many tweets of a part have each of the terms that are means."""

    labelled: float
    aligned: float
    taught: float
    targeted: float


def _counts(inputs: Mapping[str, Any]) -> _Counts:
    n_labelled = len(inputs["relation" if "relation" in inputs else "labels"])
    more = inputs.get("unlabelled")
    n_more = 0 if more is None else n_tweets(more)
    taught, targeted = (
        n_labelled * (name in inputs) + n_more * (more is not None and name in more) for name in ("lesson", "target")
    )
    return _Counts(n_labelled, n_labelled + n_more, taught, targeted)


def keep_gradient(embedding: nn.Embedding) -> None:
    """Keep an embedding's gradient in the same memory at every step.

    Autograd would allocate and clear memory for all rows at each step: 1 GB for XLM-R large, of which a batch reads
    some hundred rows. `.grad` is dense as usual, until the next step overwrites it.
    """
    if embedding.sparse:  # prepared before
        return
    embedding.sparse = True
    kept = torch.zeros_like(embedding.weight)

    def densify(weight: Tensor) -> None:
        if weight.grad is not None and weight.grad.is_sparse:  # the step's first; later ones are added to it by torch
            weight.grad = kept.zero_().add_(weight.grad)

    embedding.weight.register_post_accumulate_grad_hook(densify)
