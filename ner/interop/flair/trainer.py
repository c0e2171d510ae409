"""The two-view objective by flair's own SequenceTagger, CRF and ModelTrainer, in the separate environment `flair`.

`python -m ner.interop.flair.trainer JOB` is started by :mod:`ner.interop.flair.training`, which encodes the views
and saves the result; one line of JSON per epoch on standard output tells it how training goes. Weights come and go
through :mod:`ner.interop.flair.bridge`.
"""

import json
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import flair
import torch
from flair.data import Corpus, Sentence
from flair.datasets import FlairDatapointDataset
from flair.embeddings import TransformerWordEmbeddings
from flair.models import SequenceTagger
from flair.trainers import ModelTrainer
from flair.trainers.plugins import LinearSchedulerPlugin, TrainerPlugin, TrainingInterrupt
from flair.training_utils import Result
from safetensors.torch import save_file
from torch import Tensor

from ner.interop.flair.bridge import TAG_TYPE, quiet_flair, to_flair, weights_from_flair
from ner.interop.flair.folder import TaggerFolder
from ner.scoring.f1 import score
from pipeline.core.errors import run_cli
from pipeline.core.files import read_jsonl
from pipeline.core.labels import entities
from pipeline.settings.training import TrainParams

ENCODED, CROSS_MODAL, GOLD = "encoded", "cross_modal", "gold"  # metadata of a Sentence
PREDICTED = "predicted"


class EncodedEmbeddings(TransformerWordEmbeddings):
    """flair's word embeddings of sub-tokens that a Sentence brings along, instead of tokenizing it in every batch."""

    def prepare_tensors(self, sentences: list[Sentence], device: torch.device | None = None) -> dict[str, Tensor]:
        """What :meth:`forward` takes: a sentence's sub-tokens, and which of them are the first of which token."""
        views = [sentence.get_metadata(ENCODED) for sentence in sentences]
        width = max(len(view["input_ids"]) for view in views)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*view["input_ids"], *[pad] * (width - len(view["input_ids"]))] for view in views])
        lengths = torch.tensor([len(view["input_ids"]) for view in views])
        n_tokens = torch.tensor([len(view["firsts"]) for view in views])
        word_ids = torch.full_like(ids, -100)
        rows = torch.arange(len(views)).repeat_interleave(n_tokens)
        firsts = torch.tensor([first for view in views for first in view["firsts"]])
        word_ids[rows, firsts] = torch.cat([torch.arange(int(n)) for n in n_tokens])
        tensors = {
            "input_ids": ids,
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            "token_lengths": n_tokens,
            "word_ids": word_ids,
        }
        return {name: tensor.to(device or flair.device) for name, tensor in tensors.items()}


class TwoViewTagger(SequenceTagger):
    """flair's tagger with ITA's loss: NLL of the text, weighted NLL and marginal KL of the text with its context.

    A Sentence is the view that the tagger predicts; with `views: both` its metadata hold the cross-modal twin. Set
    `params` before training; :class:`SizeOfBatch` sets `n_tweets`.
    """

    params: TrainParams
    n_tweets = 1  # of the whole batch, of which :meth:`forward_loss` may get a part
    sums: dict[str, float]

    def forward_loss(self, sentences: list[Sentence]) -> tuple[Tensor, int]:
        """A part's share of the batch's mean loss over tweets, *Shape:* (), and the number of its tweets."""
        if self.params.views != "both":
            loss, _ = super().forward_loss(sentences)
            self._note({f"nll_{self.params.views}": loss}, loss / self.n_tweets)
            return loss / self.n_tweets, len(sentences)
        sentences = sorted(sentences, key=len, reverse=True)
        twins = [sentence.get_metadata(CROSS_MODAL) for sentence in sentences]
        text, lengths, _ = self.forward(*self._prepare_tensors(sentences))
        context, _, _ = self.forward(*self._prepare_tensors(twins))
        for twin in twins:  # flair forgets those of the sentences it was given
            twin.clear_embeddings()
        gold = torch.nn.utils.rnn.pad_sequence(
            self._prepare_label_tensor(sentences).split(lengths.tolist()), batch_first=True
        )
        params, weights = self.params, self.params.weights
        aligned = params.alignment != "none"
        chain = Chain(self.crf.transitions, self.loss_function.start_tag, self.loss_function.stop_tag)
        scores = torch.cat([text, context]).float()  # whatever autocast says
        forward, log_partition = chain.forward(scores, lengths.repeat(2))
        log_likelihood = chain.score(scores, gold.repeat(2, 1), lengths.repeat(2)) - log_partition
        nll_text_only, nll_cross_modal = (-part.sum() for part in log_likelihood.chunk(2))
        loss = weights.text_only * nll_text_only + weights.cross_modal * nll_cross_modal
        terms = {"nll_text_only": nll_text_only, "nll_cross_modal": nll_cross_modal}
        if aligned:
            n = len(sentences)
            with torch.set_grad_enabled(not params.detach_teacher):
                teacher = forward[n:] + chain.backward(scores[n:], lengths) - log_partition[n:, None, None]
            student = forward[:n] + chain.backward(scores[:n], lengths) - log_partition[:n, None, None]
            inside = torch.arange(student.shape[1]) < lengths[:, None]
            student, teacher = (
                torch.log_softmax(view[inside.to(view.device)] / params.temperature, dim=-1)
                for view in (student, teacher.detach() if params.detach_teacher else teacher)
            )
            divergence = torch.nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
            loss = loss + weights.alignment * params.temperature**2 * divergence
            terms["alignment"] = divergence
        self._note(terms, loss / self.n_tweets)
        return loss / self.n_tweets, len(sentences)

    def _note(self, terms: Mapping[str, Tensor], loss: Tensor) -> None:
        for name, value in {**{name: term / self.n_tweets for name, term in terms.items()}, "loss": loss}.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def evaluate(self, data_points: Any, gold_label_type: str, mini_batch_size: int = 32, **_: Any) -> Result:
        """The mean of the trained views' strict micro-F1, as the core's trainer scores its epochs."""
        sentences = list(data_points)
        views = {"text_only" if self.params.views == "both" else self.params.views: sentences}
        if self.params.views == "both":
            views["cross_modal"] = [sentence.get_metadata(CROSS_MODAL) for sentence in sentences]
        gold = [sentence.get_metadata(GOLD) for sentence in sentences]
        scores: dict[str, float] = {}
        for name, view in views.items():
            self.predict(view, mini_batch_size=mini_batch_size, label_name=PREDICTED)
            predicted = [predicted_labels(sentence) for sentence in view]
            scores[f"f1_{name}"] = score(gold, predicted)["strict"]["micro"]["f1"]
        mean = sum(scores.values()) / len(scores)
        return Result(main_score=mean, detailed_results=json.dumps(scores), scores={**scores, "f1": mean, "loss": 0.0})


class Chain:
    """A chain over flair's scores, emissions and transitions added up: sums over paths, and marginals.

    flair's own loss computes log Z only; ITA's also needs the marginals, hence both directions:

        forward_t[j]  = log Σ_i exp(forward_{t-1}[i] + score_t[j, i])
        backward_t[i] = log Σ_j exp(score_{t+1}[j, i] + backward_{t+1}[j])

    Args:
        transitions: flair's, *Shape:* (to, from).
        start: index of flair's start label.
        stop: index of flair's stop label.
    """

    def __init__(self, transitions: Tensor, start: int, stop: int) -> None:
        self.stop_scores, self.start = transitions[stop], start

    def forward(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the paths into each label.

        Args:
            scores: *Shape:* (batch, length, to, from).
            lengths: the sequences' lengths, *Shape:* (batch,).

        Returns:
            log-sums, *Shape:* (batch, length, n_labels).
            log Z, *Shape:* (batch,).
        """
        steps = [scores[:, 0, :, self.start]]
        for t in range(1, scores.shape[1]):
            steps.append(torch.logsumexp(scores[:, t] + steps[-1].unsqueeze(1), dim=2))
        sums = torch.stack(steps, dim=1)
        last = sums[torch.arange(len(lengths)), lengths - 1]
        return sums, torch.logsumexp(last + self.stop_scores, dim=1)

    def backward(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Sum over the paths that follow each label.

        Args:
            scores: *Shape:* (batch, length, to, from).
            lengths: the sequences' lengths, *Shape:* (batch,).

        Returns:
            log-sums, *Shape:* (batch, length, n_labels).
        """
        ended = self.stop_scores.expand(len(scores), -1)
        step, steps = ended, [ended]
        for t in range(scores.shape[1] - 2, -1, -1):
            following = torch.logsumexp(scores[:, t + 1] + step.unsqueeze(2), dim=1)
            step = torch.where((lengths > t + 1).to(scores.device).unsqueeze(1), following, ended)
            steps.append(step)
        return torch.stack(steps[::-1], dim=1)

    def score(self, scores: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Score paths.

        Args:
            scores: *Shape:* (batch, length, to, from).
            labels: the paths, *Shape:* (batch, length).
            lengths: the sequences' lengths, *Shape:* (batch,).

        Returns:
            the paths' scores, *Shape:* (batch,).
        """
        rows = torch.arange(len(labels), device=labels.device)
        before = torch.cat([labels.new_full((len(labels), 1), self.start), labels[:, :-1]], dim=1)
        taken = scores[rows[:, None], torch.arange(labels.shape[1], device=labels.device), labels, before]
        inside = (torch.arange(labels.shape[1]) < lengths[:, None]).to(labels.device)
        return taken.masked_fill(~inside, 0.0).sum(1) + self.stop_scores[labels[rows, lengths.to(rows.device) - 1]]


class SizeOfBatch(TrainerPlugin):
    """Says how many tweets a batch's loss is a mean over, of which the model may get a part at a time."""

    @TrainerPlugin.hook
    def before_training_batch(self, batch: Sequence[Sentence], **_: Any) -> None:
        """Tell the model."""
        self.trainer.model.n_tweets = len(batch)


class KeepBest(TrainerPlugin):
    """Tells of each epoch, keeps the weights of the best, and ends training when patience is out."""

    def __init__(self, labels: list[str], file: Path, report: IO[str]) -> None:
        super().__init__()
        self.labels, self.file, self.report = labels, file, report
        self.scores: list[float] = []
        self.logs: dict[str, float] = {}
        self.n_batches = 0

    @TrainerPlugin.hook
    def after_training_batch(self, **_: Any) -> None:
        """Count."""
        self.n_batches += 1

    @TrainerPlugin.hook
    def metric_recorded(self, record: Any) -> None:
        """Catch the dev scores that :meth:`TwoViewTagger.evaluate` gave."""
        name = str(record.name)
        if name.startswith("dev/f1"):
            self.logs[f"eval_{name.removeprefix('dev/')}"] = float(record.value)

    @TrainerPlugin.hook
    def after_evaluation(self, epoch: int, **_: Any) -> None:
        """The end of an epoch."""
        model = self.trainer.model
        losses = {name: total / self.n_batches for name, total in model.sums.items()}
        model.sums, self.n_batches = {}, 0
        self.scores.append(self.logs["eval_f1"])
        best = max(self.scores)
        if self.scores[-1] > max(self.scores[:-1], default=-1.0) or not best:  # none above 0: the last one is kept
            temporary = self.file.with_suffix(".tmp")
            save_file(weights_from_flair(model, self.labels), temporary)
            os.replace(temporary, self.file)
        print(json.dumps({"epoch": epoch, **losses, **self.logs}), file=self.report, flush=True)
        patience = model.params.patience
        if patience is not None and best > 0 and len(self.scores) - 1 - self.scores.index(best) >= patience:
            raise TrainingInterrupt(f"{patience} epochs without a better dev score")


def predicted_labels(sentence: Sentence) -> list[str]:
    """IOB2 labels of what was predicted."""
    labels = ["O"] * len(sentence)
    for span in sentence.get_spans(PREDICTED):
        first, last = span.tokens[0].idx - 1, span.tokens[-1].idx
        kind = span.get_label(PREDICTED).value
        labels[first:last] = [f"B-{kind}", *[f"I-{kind}"] * (last - first - 1)]
    return labels


def sentences_of(rows: Iterable[Mapping[str, Any]], views: str) -> list[Sentence]:
    """Labelled Sentences with their encoded views; see :func:`ner.interop.flair.training.train` for the rows."""
    sentences = []
    for row in rows:
        sentence = Sentence(row["tokens"])
        sentence.add_metadata(GOLD, row["labels"])
        sentence.add_metadata(ENCODED, row["text_only" if views == "both" else views])
        for first, last, kind in entities(row["labels"], "conlleval"):
            sentence[first:last].add_label(TAG_TYPE, kind)
        if views == "both":
            twin = Sentence(row["tokens"])
            twin.add_metadata(ENCODED, row["cross_modal"])
            sentence.add_metadata(CROSS_MODAL, twin)
        sentences.append(sentence)
    return sentences


def tagger_of(folder: TaggerFolder, params: TrainParams) -> TwoViewTagger:
    """The tagger of a folder, to be trained."""
    model = to_flair(folder, any_text=False, tagger_class=TwoViewTagger, embeddings_class=EncodedEmbeddings)
    model.params, model.sums = params, {}
    return model


def adamw(model: torch.nn.Module, weight_decay: float, crf_rate: float, params: Any, lr: float) -> torch.optim.AdamW:
    """AdamW with the core's groups: another rate for the CRF, and decay for the others' matrices alone."""
    named = list(model.named_parameters())
    rest = [weight for name, weight in named if not name.startswith("crf.")]
    return torch.optim.AdamW(
        [
            {"params": [weight for weight in rest if weight.ndim > 1], "weight_decay": weight_decay},
            {"params": [weight for weight in rest if weight.ndim <= 1], "weight_decay": 0.0},
            {
                "params": [weight for name, weight in named if name.startswith("crf.")],
                "weight_decay": 0.0,
                "lr": crf_rate,
            },
        ],
        lr=lr,
    )


def run(job_file: Path, report: IO[str]) -> None:
    """Train as a job says: keep the best epoch's weights in its file, and write a line of JSON an epoch."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    params = TrainParams.model_validate(job["params"])
    flair.device = torch.device(job["device"])
    flair.set_seed(params.seed)
    quiet_flair()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"flair\.")  # of torch's, about flair's own code
    folder = TaggerFolder(Path(job["start"]))
    model = tagger_of(folder, params)
    corpus = Corpus(
        train=FlairDatapointDataset(sentences_of(read_jsonl(job["train"]), params.views)),
        dev=FlairDatapointDataset(sentences_of(read_jsonl(job["dev"]), params.views)),
        sample_missing_splits=False,
    )
    ModelTrainer(model, corpus).train_custom(
        base_path=job_file.parent / "flair",
        learning_rate=params.learning_rate,
        mini_batch_size=params.batch_size,
        mini_batch_chunk_size=params.batch_size // params.gradient_accumulation,
        eval_batch_size=2 * params.batch_size,
        max_epochs=params.epochs,
        optimizer=partial(adamw, model, params.weight_decay, params.crf_learning_rate),
        max_grad_norm=params.max_grad_norm,
        use_amp=params.precision == "bfloat16",
        embeddings_storage_mode="none",
        use_final_model_for_eval=True,  # the best one is kept by the plugin
        save_final_model=False,
        create_file_logs=False,
        create_loss_file=False,
        plugins=[
            LinearSchedulerPlugin(warmup_fraction=params.warmup_ratio),
            SizeOfBatch(),
            KeepBest(folder.labels, Path(job["best"]), report),
        ],
    )


def main() -> None:
    """The command line: a job's file."""
    report, sys.stdout = sys.stdout, sys.stderr  # for lines of ours alone, whatever flair prints
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run(Path(sys.argv[1]), report)


def _end_with_parent() -> None:
    """Standard input is a pipe that closes when the process at its other end is gone, however it went."""
    sys.stdin.read()
    os._exit(143)


if __name__ == "__main__":
    run_cli(main)
