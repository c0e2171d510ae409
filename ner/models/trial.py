"""A dry pass of an encoder and its tokenizer before the first epoch: whether a tagger can be trained on them at all.

What must hold is asked of the model itself, not looked up by its name: windows of full length, results that do not
depend on what else is in a batch, with a picture and without, the same tagger after saving and loading. What is learned
is left to :mod:`ner.training.run`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ner.encoder.packing import close
from ner.models.base import TaggerModel
from ner.models.folder import load_view_encoder
from ner.views import ViewBatch, ViewEncoder, collate
from ner.visual import UNKNOWN_OBJECT, PostVisual, collate_visuals
from pipeline.core.errors import UserError
from pipeline.core.machine import is_out_of_memory
from pipeline.core.records import View


def require_trainable(model: TaggerModel, views: ViewEncoder, name: str | Path) -> None:
    """Try a tagger that has not been trained yet.

    Args:
        model: the tagger, on the CPU.
        views: its encoder of views.
        name: what to call the encoder in the message.

    Raises:
        UserError: it cannot be trained, with the reason.
    """
    if reason := obstacle(model, views):
        raise UserError(f"train.encoder: {name} {reason}")


def obstacle(model: TaggerModel, views: ViewEncoder) -> str | None:
    """Why a tagger that has not been trained yet cannot be, as the end of a message that names it; None where it can.

    Args:
        model: the tagger, on the CPU.
        views: its encoder of views.

    Raises:
        UserError: the tagger that was saved for the trial cannot be loaded.
        Exception: memory ran out, which says nothing of the encoder.
    """
    kind, training = model.config.encoder["model_type"] if model.config.encoder else "", model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            problem = _problem(model, views)
    except UserError:
        raise
    except Exception as error:  # whatever a model of any kind raises is why it cannot be trained
        if is_out_of_memory(error):
            raise
        problem = f"{type(error).__name__}: {error}"
    finally:
        model.train(training)
    remedy = "choose an encoder of the BERT, RoBERTa, DeBERTa or ModernBERT kind"
    return f"({kind}) cannot be trained here: {problem}; {remedy}" if problem else None


def _problem(model: TaggerModel, views: ViewEncoder) -> str | None:
    short, full = _posts(views)
    picture = _picture(model)
    shown = [None] if picture is None else [None, picture]
    alone = _one_by_one(model, views, short, shown)
    if not bool(torch.isfinite(alone).all()):
        return "its results are not finite"
    for some in [[None], shown][: len(shown)]:
        beside = _emissions(model, views, [*[short] * len(some), full], [*some, some[-1]])
        if not close(beside[: len(some), : alone.shape[1]], alone[: len(some)]):
            return "the result of a text depends on what else is in its batch (padding is not masked throughout)"
    with tempfile.TemporaryDirectory(prefix="sightread-") as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder, config=model.config, local_files_only=True).eval()
        if not close(_one_by_one(again, views, short, shown), alone):
            return "it gives other results after it was saved and loaded"
        views.tokenizer.save_pretrained(folder)
        words = ["name", "Jordan", "a"]
        if load_view_encoder(Path(folder), model.config).words(words) != views.words(words):
            return "its tokenizer splits words in another way after it was saved and loaded"
    return None


def _posts(views: ViewEncoder) -> tuple[View, View]:
    """A short post, and one that fills a window to its last sub-token and begins another."""
    word = "name"
    n_words = views.limits.max_length // max(1, len(views.words([word])[word])) + 2
    return View("short", [word, "a"], None, ""), View("full", [word] * n_words, None, "")


def _picture(model: TaggerModel) -> PostVisual | None:
    """A picture such as the tagger is to read: noise, with an object; None where it reads none."""
    facts = model.config.facts or {}
    width, n_cells = facts.get("region_width"), facts.get("n_cells")
    if not model.reads_visual or (width is None and not facts.get("object_labels")):
        return None
    regions = () if width is None else (torch.randn(int(n_cells or 0), width).numpy(),)
    return PostVisual(regions, (UNKNOWN_OBJECT,))


def _one_by_one(model: TaggerModel, views: ViewEncoder, post: View, pictures: Sequence[PostVisual | None]) -> Tensor:
    """A post with each of some pictures, or with none, *Shape:* (pictures, length, n_labels)."""
    return torch.cat([_emissions(model, views, [post], [picture]) for picture in pictures])


def _emissions(
    model: TaggerModel, views: ViewEncoder, posts: Sequence[View], pictures: Sequence[PostVisual | None]
) -> Tensor:
    """*Shape:* (posts, length, n_labels)."""
    batch: ViewBatch = collate(views.encode(posts, with_context=False), views.pad_id)
    return model.emissions(batch, collate_visuals(pictures))
