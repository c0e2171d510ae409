"""Training the tagger: from labelled views and a pretrained encoder to a folder with a tagger, resumable and seeded.

Steps, batches and evaluation are :mod:`ner.training.trainer`'s, what is learned :mod:`ner.models`'; where posts come
from, and which work folder belongs to which params and data, is left to the caller.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from ner.bioes import scheme_labels
from ner.decoding import choose_device
from ner.models.base import TaggerModel
from ner.models.folder import load_tokenizer, quietly, view_encoder
from ner.models.registry import tagger_class
from ner.models.trial import require_trainable
from ner.training import examples, processes, work_folder
from ner.training.callbacks import (
    Curves,
    EarlyStopping,
    MarkComplete,
    Relocate,
    ShowProgress,
    patience_is_out,
)
from ner.training.context_vectors import ContextVectors
from ner.training.finite import NotFinite, require_finite
from ner.training.pieces import counted
from ner.training.sampler import Example, MixedExamples, collate_examples, collate_mixed
from ner.training.teachers import Teachers
from ner.training.tracking import Tracked
from ner.training.trainer import TaggerTrainer
from ner.views import ViewEncoder
from ner.visual import Visuals
from pipeline.core import checksums, marks, memory
from pipeline.core.errors import UserError
from pipeline.core.records import RelationPost, View
from pipeline.settings.training import TrainParams


def train(
    params: TrainParams,
    *,
    encoder: Path | str,
    train: Sequence[View],
    dev: Sequence[View],
    output: Path,
    work: Path,
    curves: Path | None,
    device: str = "auto",
    visuals: Visuals | None = None,
    words: Iterable[str] = (),
    relation: Sequence[RelationPost] = (),
    unlabelled: Sequence[View] = (),
    teachers: Teachers | None = None,
    contexts: ContextVectors | None = None,
    ddp_timeout: float = processes.TIMEOUT,
) -> dict[str, Any]:
    """Train a tagger and save that of the best epoch (by the mean of the trained views' strict dev micro-F1).

    Where no epoch scores above 0, as on a dev split without entities, the last epoch's is saved.

    Args:
        params: the section `train` of params.yaml.
        encoder: folder or hub name of the pretrained encoder and its tokenizer.
        train, dev: labelled views; their contexts make the cross-modal view. A view of `train` without labels counts
            as `unlabelled`.
        output: the tagger's folder.
        work: gets a checkpoint per epoch. An interrupted training continues from the last complete one, to the same
            scores (nearly, on a GPU, whose kernels may add in another order). It must belong to these params, data
            and encoder. A training that has ended leaves its tagger there, and is not run again.
        curves: folder for DVCLive's curves, one step per epoch: ``plots/metrics/train/{loss,nll_text_only,
            nll_cross_modal,alignment}.tsv``, ``plots/metrics/dev/{f1,f1_text_only,f1_cross_modal}.tsv`` and
            ``metrics.json``; those of a mode or alignment not in use are missing.
        device: auto, cpu, cuda, cuda:1, …
        visuals: what posts' pictures give as tensors, for the systems that read those.
        words: tokens of posts that are tagged later, for systems with vectors of words; those of `train` and `dev` go
            without saying.
        relation: posts whose pictures are known to add to their meaning or not to, for systems that learn this; they
            are read at the beginning of each epoch.
        unlabelled: views of which only the alignment, what fixed teachers say and what contexts say is learned.
        teachers: the saved taggers that `train.teacher` names, where it names some.
        contexts: gives contexts their vectors, where `train.context_target` has them learned.
        ddp_timeout: seconds that several processes wait for one of them.

    Returns:
        ``{"epochs": trained, "best_epoch": from 1, "chosen_by": "dev_f1" or "last_epoch",
        "dev": {"f1", "f1_text_only", "f1_cross_modal"}}``, and where posts were too long to be trained whole
        (:mod:`ner.training.pieces`), ``"cut": {"posts": so many, "pieces": made of them}``; where a relation was
        learned from posts of its own, ``"relation": {"posts": so many}``; where posts without labels took part,
        ``"unlabelled": {"posts": so many}``

    Raises:
        UserError: no post with labels, one of dev without, no dev posts, an unusable encoder or device; of several
            processes, not all see `work`, or one is lost; what `report_to` names is not installed or fails; a loss or
            weight that is not finite, of which nothing is saved.
    """
    labelled, others = examples.parted(params, train, unlabelled)
    examples.check_labelled("dev", dev)
    _require_divisible(params)
    with processes.together(ddp_timeout):
        processes.require_shared(work)
    if (state := take_finished(work, output, curves)) is not None:
        return summary(state)
    examples.warn_without_entities(dev)
    chosen = choose_device(device)
    memory.keep_few_kernels()
    with quietly(), processes.together(ddp_timeout):
        model, tokenizer, views = set_up(
            params, encoder, [*labelled, *others], visuals, itertools.chain(_tokens(dev), words)
        )
        say = None if teachers is None else partial(teachers.say, labels=model.labels, device=chosen)
        describe = None if contexts is None else partial(contexts.of, device=chosen)
        found = examples.make(params, model, views, labelled, others, relation, say, describe)
        read_first = [*found.relation, *found.labelled]
        dataset: list[Example] | MixedExamples = read_first
        collate: Callable[..., dict[str, Any]] = collate_examples
        if found.unlabelled:
            collate, dataset = collate_mixed, MixedExamples([*read_first, *found.unlabelled], len(read_first))
        processes.join(chosen.type == "cpu", ddp_timeout)
        arguments = _arguments(params, work, chosen, ddp_timeout, parts_differ=model.reads_visual)
        if processes.is_first():
            work_folder.clean(work)
        processes.wait()
        shown = ShowProgress()
        trainer = TaggerTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=dev,
            data_collator=lambda batch: collate(batch, views.pad_id, model.training_views),
            callbacks=[Relocate(work), MarkComplete(), EarlyStopping(params.patience), shown],
            params=params,
            dev_views=examples.encode_views(params.trained_views, views, dev),
            dev_labels=[view.labels or [] for view in dev],
            pad_id=views.pad_id,
        )
        for unwanted in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(unwanted)
        if curves is not None and processes.is_first():
            trainer.add_callback(Curves(curves))
        tracked = Tracked(params, work.name) if params.report_to != "none" and processes.is_first() else None
        if tracked is not None:
            trainer.add_callback(tracked)
        try:
            state = _run(trainer, work, params)
        except NotFinite as error:
            raise UserError(_explained(error, trainer, work, params)) from None
        finally:
            shown.close()
            if tracked is not None:
                tracked.close()
        state.log_history += counted(found.pieces)
        state.log_history += [{"relation_posts": len(found.relation)}] if found.relation else []
        state.log_history += [{"unlabelled_posts": len(others)}] if others else []
        processes.wait()
        if processes.is_first():
            best = work / f"checkpoint-{_chosen_step(state)}"
            trained = type(model).from_pretrained(best, config=model.config, local_files_only=True)
            trained.leave_context_layers()
            finish(trained, tokenizer, work, output, state)
    return summary(state)


def set_up(
    params: TrainParams,
    encoder: Path | str,
    train: Sequence[View],
    visuals: Visuals | None = None,
    words: Iterable[str] = (),
) -> tuple[TaggerModel, Any, ViewEncoder]:
    """A seeded tagger of the labels in `train`, with nothing learned yet; its tokenizer; the encoder of its views.

    Posts of `train` may have no labels. `words` are those that it may have vectors of, beside the tokens of `train`.

    Raises:
        UserError: the encoder cannot be trained, as a dry pass shows (:mod:`ner.models.trial`), or the system needs
            something of pictures that is not there.
    """
    set_seed(params.seed)
    labels = scheme_labels((view.labels or [] for view in train), params.scheme)
    system = tagger_class(params.model)
    every_word = itertools.chain(_tokens(train), words)
    facts = {**system.facts_of(params, train, visuals), **system.word_facts(params, every_word)}
    model = system.from_encoder(encoder, labels, params, facts=facts)
    model.config.marks = marks.count(view.tokens for view in train if view.labels is not None)
    tokenizer = load_tokenizer(encoder, params.revision)
    views = view_encoder(tokenizer, model.config)
    if visuals is not None and model.reads_visual:
        views.show(visuals, model.config.facts or {})
    require_trainable(model, views, encoder)
    return model, tokenizer, views


def _tokens(posts: Iterable[View]) -> Iterator[str]:
    return itertools.chain.from_iterable(post.tokens for post in posts)


def finish(model: TaggerModel, tokenizer: Any, work: Path, output: Path, state: TrainerState) -> None:
    """Save a trained tagger as a folder, in `work` for whoever trains the same and in `output`.

    Raises:
        UserError: a weight is not finite.
    """
    require_finite(model.state_dict())
    folder = work_folder.unfinished_tagger(work)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    checksums.seal(folder)
    work_folder.finish(work, folder, state.log_history)
    work_folder.take(work, output)


def take_finished(work: Path, output: Path, curves: Path | None) -> TrainerState | None:
    """The tagger and curves of a training that has ended in `work`, and its state; None where none has."""
    history = work_folder.finished_history(work)
    if history is None:
        return None
    state = TrainerState(log_history=history)
    if processes.is_first():
        print(
            f"train: this training has been run to its end; its tagger is taken from {work} (delete that folder to "
            "train again)",
            file=sys.stderr,
        )
        work_folder.take(work, output)
        if curves is not None:
            arguments: Any = None  # the curves need the history alone
            Curves(curves).on_train_begin(arguments, state, TrainerControl())
    return state


def summary(state: TrainerState) -> dict[str, Any]:
    """What :func:`train` returns of a training that has reached this state."""
    history = [logs for logs in state.log_history if "eval_f1" in logs]
    cut = next((logs for logs in state.log_history if "cut_posts" in logs), None)
    others = {
        name: {"posts": logs[f"{name}_posts"]}
        for name in ("relation", "unlabelled")
        for logs in state.log_history
        if f"{name}_posts" in logs
    }
    best = max(history, key=lambda logs: logs["eval_f1"])  # the first of equals, as the Trainer has it
    scored = best["eval_f1"] > 0
    chosen = best if scored else history[-1]
    return {
        "epochs": len(history),
        "best_epoch": history.index(best) + 1 if scored else len(history),
        "chosen_by": "dev_f1" if scored else "last_epoch",
        "dev": {key.removeprefix("eval_"): value for key, value in sorted(chosen.items()) if key.startswith("eval_f1")},
        **({} if cut is None else {"cut": {"posts": cut["cut_posts"], "pieces": cut["pieces"]}}),
        **others,
    }


def _chosen_step(state: TrainerState) -> int | None:
    return state.best_global_step if summary(state)["chosen_by"] == "dev_f1" else state.global_step


def _explained(error: NotFinite, trainer: "TaggerTrainer", work: Path, params: TrainParams) -> str:
    checkpoint = work_folder.last_checkpoint(work)
    left = "no epoch was completed before, and nothing is saved"
    if checkpoint is not None:
        epochs = round(work_folder.state_of(checkpoint).epoch or 0)
        left = f"nothing of it is saved; the last sound checkpoint is that of epoch {epochs}, {checkpoint}"
    return (
        f"train: {error.what} at step {error.step} of {trainer.state.max_steps}, where the learning rate was "
        f"{error.rate:g}: {left}. Lower train.learning_rate ({params.learning_rate:g}), or train.max_grad_norm "
        f"({'null' if params.max_grad_norm is None else format(params.max_grad_norm, 'g')})"
    )


def _run(trainer: "TaggerTrainer", work: Path, params: TrainParams) -> TrainerState:
    """Train to the end, from the last whole checkpoint if there is one; return the state reached."""
    checkpoint = work_folder.last_checkpoint(work)
    if checkpoint is None:
        trainer.train()
        return trainer.state
    state = work_folder.state_of(checkpoint)
    n_epochs = round(state.epoch or 0)
    if processes.is_first():
        print(f"resuming after epoch {n_epochs} of {params.epochs}, from {checkpoint}", file=sys.stderr)
    if n_epochs >= params.epochs or patience_is_out(state, params.patience):
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, Curves):
                callback.on_train_begin(trainer.args, state, trainer.control)
        return state
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return trainer.state


def _require_divisible(params: TrainParams) -> None:
    try:
        params.require_divisible(processes.count())
    except ValueError as error:
        raise UserError(str(error)) from None


def _arguments(
    params: TrainParams, work: Path, device: torch.device, ddp_timeout: float, *, parts_differ: bool
) -> TrainingArguments:
    arguments = _Arguments(
        output_dir=str(work),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size // (params.gradient_accumulation * processes.count()),
        gradient_accumulation_steps=params.gradient_accumulation,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup_ratio,  # below 1 it is a ratio
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm or 0.0,  # 0: the Trainer does not clip
        adam_epsilon=params.adam_epsilon,
        bf16=params.precision == "bfloat16",
        seed=params.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        metric_for_best_model="eval_f1",
        greater_is_better=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        ddp_timeout=math.ceil(ddp_timeout),
        ddp_find_unused_parameters=parts_differ,  # a batch without pictures gives their layers no gradient
        disable_tqdm=True,
        report_to="none",  # Tracked says less of the machine
    )
    if not processes.launched():  # of several processes, each takes the GPU of its rank
        arguments.take(device)
    return arguments


class _Arguments(TrainingArguments):
    """Training on one device per process: on several GPUs transformers' own would take the first, or all of them."""

    _taken: torch.device | None = None

    def take(self, device: torch.device) -> None:
        """Train on this device."""
        self._taken = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
            # What the Trainer asks accelerate for is where it puts the model.
            self.distributed_state.device = device

    @property
    def device(self) -> torch.device:
        """Where the Trainer puts batches."""
        return super().device if self._taken is None else self._taken

    @property
    def n_gpu(self) -> int:
        """Never more than 1, so never torch's DataParallel."""
        return min(1, super().n_gpu)
