"""A tagger on onnxruntime: ``python -m ner.onnx export models/tagger FOLDER``, then predict from that folder.

The exported graph computes emissions and returns the CRF's scores beside them; decoding and confidences stay in
:mod:`ner.crf.chain`, so both engines give the same entities. Training needs torch.
"""

import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.encoder.casing import FEATURES
from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.folder import ONNX_GRAPH, load_config, load_tagger, load_view_encoder
from ner.models.graph import DYNAMIC, GraphInput, GraphInputs, inputs_of, parts, reads_pictures
from ner.views import UNKNOWN_WORD, EncodedView, FurtherWords, ViewBatch, ViewEncoder, collate
from ner.visual import UNKNOWN_OBJECT, PostVisual, VisualBatch, collate_visuals
from pipeline.core import checksums, onnx_files
from pipeline.core.errors import UserError
from pipeline.core.machine import is_out_of_memory

_Shape = tuple[tuple[int, ...], ...]  # of tweets: how many sub-tokens each of their windows has
SCORES = ("transitions", "start", "stop")  # see ner.crf.chain.LinearChainCRF
OPSET = 23  # the first with attention as one operator
# onnxruntime's fused addition and layer norm, or bias and GELU, take longer on a CPU than the two apart.
_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]
_SHAPES = (
    ((5,),),
    ((9,), (8,)),
    ((16,), (15,), (14,), (13,), (12,)),
    ((4,), (16, 16, 9), (7,)),
)  # sub-tokens in the windows of the tweets that an export is compared on
_CLOSE = 1e-3  # of the largest score: float noise is a hundredth of it
SUBTOKENS_AT_ONCE = 400  # of a thread, about: enough to be worth a call, few enough to stay in its cache


class OnnxTagger:
    """A tagger whose emissions onnxruntime computes, on the CPU; a :class:`ner.decoding.Scorer`.

    Args:
        session: an exported graph, which one thread runs.
        name: what messages call it.
        config: the tagger's.
        n_threads: how many threads run it at once, each on other windows.
        remedy: what to do where it fails.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, name: str, config: TaggerConfig, n_threads: int, remedy: str
    ) -> None:
        self.name, self.config, self.remedy, self.asks_relation = name, config, remedy, False
        self.session, self.labels, self.device = session, list(config.tag_labels or ()), torch.device("cpu")
        self.inputs = cast("list[GraphInput]", [each.name for each in session.get_inputs()])
        self.reads_visual = reads_pictures(self.inputs)
        self.n_threads, self._threads = n_threads, ThreadPoolExecutor(n_threads)
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        one, _ = self._inputs(_batch(((3,),), lambda n: [1] * n, 0), None, torch.zeros(1, dtype=torch.long))
        scores = self.session.run(SCORES, one)
        self.crf.load_state_dict(self.crf.state_dict() | dict(zip(SCORES, map(torch.from_numpy, scores), strict=True)))

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """Score every label of every token.

        Args:
            view: B tweets of at most L tokens.
            visual: what their pictures give as tensors; None for the text-only view. Not read where the graph is that
                of the text-only view.

        Returns:
            emissions, float32, zeros on padding, *Shape:* (B, L, n_labels).

        Raises:
            UserError: onnxruntime fails.
        """
        n_windows, width = view["input_ids"].shape
        width += visual["mask"].shape[1] if visual is not None and self.reads_visual else 0
        n_parts = self.n_threads * math.ceil(n_windows * width / (self.n_threads * SUBTOKENS_AT_ONCE))
        made = [self._inputs(view, visual, windows) for windows in parts(view, self.inputs, n_parts)]
        found = self._threads.map(self.run, [inputs for inputs, _ in made])
        emissions = torch.zeros(*view["mask"].shape, len(self.labels))
        for (_, scored), values in zip(made, found, strict=True):
            emissions[scored] = values
        return emissions

    def relation(self, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """The graph gives none."""
        raise NotImplementedError

    def grid_attention(self, view: ViewBatch, visual: VisualBatch) -> None:
        """None: the graph does not tell."""

    def further_words(self, file: Path) -> FurtherWords:
        """As :meth:`ner.models.base.TaggerModel.further_words`, which the graph does not allow: it has its words in it.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.name}: an exported tagger has its word vectors in its graph; {_STAY}")

    def _inputs(self, view: ViewBatch, visual: VisualBatch | None, windows: Tensor) -> tuple[dict[str, Any], Tensor]:
        inputs, scored = inputs_of(view, visual, windows, self.inputs, self.config.facts or {})
        return {name: tensor.numpy() for name, tensor in cast("dict[str, Tensor]", inputs).items()}, scored

    def run(self, inputs: dict[str, Any]) -> Tensor:
        """Emissions of a part of a batch.

        Args:
            inputs: the graph's.

        Returns:
            emissions, *Shape:* (N, n_labels).

        Raises:
            UserError: onnxruntime fails on these inputs.
        """
        try:
            return torch.from_numpy(self.session.run(["emissions"], inputs)[0])
        except Exception as error:  # onnxruntime's errors share no other base
            remedy = "memory runs out: tag with a smaller --batch-size" if is_out_of_memory(error) else self.remedy
            shape = tuple(inputs["input_ids"].shape)
            raise UserError(
                f"{self.name}: onnxruntime fails on sub-tokens of shape {shape} ({_first(error)}); {remedy}"
            ) from None


def load(folder: Path) -> tuple[OnnxTagger, ViewEncoder]:
    """An exported tagger and the encoder of its views, from nothing but their folder, on torch's number of threads.

    Raises:
        UserError: the folder is not as it was exported, or onnxruntime cannot read the graph.
    """
    config = load_config(folder)
    onnx_files.external_files(folder / ONNX_GRAPH)
    remedy = "export the tagger again, or tag with the tagger itself"
    return _open(folder, config, str(folder / ONNX_GRAPH), remedy, torch.get_num_threads()), load_view_encoder(
        folder, config
    )


def _open(folder: Path, config: TaggerConfig, name: str, remedy: str, n_threads: int) -> OnnxTagger:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its threads would wait for each other in every operator
    options.log_severity_level = 4  # what fails is in the error, too
    graph = folder / ONNX_GRAPH
    try:
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
        return OnnxTagger(session, name, config, n_threads, remedy)
    except Exception as error:  # onnxruntime's errors share no other base
        raise UserError(
            f"{graph}: onnxruntime cannot read it ({_first(error)}); export the tagger again: "
            f"python -m ner.onnx export TAGGER {folder}"
        ) from None


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def export(tagger: str | Path, folder: str | Path, *, with_pictures: bool = False) -> Path:
    """Write a tagger's graph (and its weights, beside it), config and tokenizer to a new folder.

    The folder appears when the graph gives the tagger's scores on several shapes of batches, or not at all.

    Args:
        tagger: a tagger's folder.
        folder: a folder to be made.
        with_pictures: whether the graph reads what pictures give as tensors, as the tagger does; else it is that of the
            text-only view.

    Raises:
        UserError: the tagger's folder is not one, the target exists, or the encoder cannot be exported.
    """
    source, target = Path(tagger), Path(folder)
    if target.exists():
        raise UserError(f"{target}: exists already; name a new folder, or remove it")
    model, _ = load_tagger(source)
    names = model.graph_inputs(with_pictures=with_pictures)
    graph = _Graph(model).eval()
    # More than one of everything: a dimension of one would be taken for a constant.
    view, visual = _example(model, ((5,), (9, 8)))
    example, _ = inputs_of(view, visual, torch.arange(3), names, model.config.facts or {})
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        written = Path(temporary, target.name)
        written.mkdir()
        try:
            with torch.inference_mode(False), torch.no_grad(), _quiet_export():
                program = torch.onnx.export(
                    graph,
                    kwargs={"inputs": example},
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=names,
                    output_names=["emissions", *SCORES],
                    dynamic_shapes={"inputs": {name: _dimensions(name, model.config.max_length) for name in names}},
                    verbose=False,
                )
        except Exception as error:  # torch's exporter's own, and whatever it meets in an encoder's code
            raise UserError(
                f"{source}: torch cannot export {_encoder(model)} ({_first(error.__cause__ or error)}); {_STAY}"
            ) from None
        if program is None:
            raise UserError(f"{source}: torch has exported nothing of {_encoder(model)}; {_STAY}")
        _forget_the_machine(program)
        program.save(written / ONNX_GRAPH, external_data=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if (source / name).exists():
                shutil.copyfile(source / name, written / name)
        exported = _open(written, model.config, f"{source}: {_encoder(model)} cannot be exported", _STAY, 1)
        _compare(model, exported, source)
        checksums.seal(written)
        os.rename(written, target)
    return target


def _dimensions(name: GraphInput, max_length: int) -> dict[int, Any]:
    bounds = {"width": {"max": max_length}}
    return {place: torch.export.Dim(each, **bounds.get(each, {})) for place, each in enumerate(DYNAMIC[name])}


_STAY = "tag with the tagger itself, which runs on torch"


def _encoder(model: TaggerModel) -> str:
    return f"an encoder of the type {model.encoder.config.model_type}"


def _forget_the_machine(program: Any) -> None:
    """Remove what the exporter noted of its run: stack traces, with the paths of this machine in them."""
    model = program.model
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    model.metadata_props.clear()
    for graph in graphs:
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        for node in graph.all_nodes():
            values += node.outputs
            node.metadata_props.clear()
            node.doc_string = None
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None
        graph.metadata_props.clear()
        graph.doc_string = None


def _compare(model: TaggerModel, exported: OnnxTagger, source: Path) -> None:
    """Check that a graph gives a tagger's scores, of one window and of several, padded and not, with pictures or none.

    Raises:
        UserError: it fails on one of them, or gives other scores.
    """
    for shape in _SHAPES:
        view, visual = _example(model, shape)
        for shown in (None, visual) if exported.reads_visual else (None,):
            with torch.inference_mode():
                wanted = model.emissions(view, shown)[view["mask"]]
            found = exported.emissions(view, shown)[view["mask"]]
            if not float((found - wanted).abs().max()) <= _CLOSE * max(1.0, float(wanted.abs().max())):
                windows, width = view["input_ids"].shape
                raise UserError(
                    f"{source}: the graph of {_encoder(model)} gives other scores than the tagger on {windows} windows "
                    f"of {width} sub-tokens; {_STAY}"
                )


def _example(model: TaggerModel, shape: _Shape) -> tuple[ViewBatch, VisualBatch | None]:
    """Tweets of random sub-tokens; random contexts or pictures, none for some, one picture or two for the others."""
    generator = np.random.default_rng(0)
    known, facts = model.encoder.get_input_embeddings().weight.shape[0], model.config.facts or {}
    pad = model.encoder.config.pad_token_id or 0
    rows = UNKNOWN_WORD + 1 + len(facts.get("words") or ())
    shape = tuple(tuple(min(width, model.config.max_length) for width in tweet) for tweet in shape)

    def ids(n: int) -> list[int]:
        drawn = generator.integers(known, size=n).tolist()
        return [each if each != pad else (pad + 1) % known for each in drawn]

    view = _batch(shape, ids, pad, rows, 2 if model.reads_context else 0)
    pictures: list[PostVisual | None] = []
    for number in range(len(shape)):
        size = facts.get("n_cells") or 0, facts.get("region_width") or 0
        regions = tuple(generator.normal(size=size).astype(np.float32) for _ in range(1 + number % 2) if all(size))
        objects = generator.integers(UNKNOWN_OBJECT + 1 + len(facts.get("object_labels") or ()), size=number % 5)
        pictures.append(PostVisual(regions, tuple(objects.tolist())) if number or len(shape) == 1 else None)
    return view, collate_visuals(pictures)


def _batch(shape: _Shape, ids: Callable[[int], list[int]], pad: int, rows: int = 2, context: int = 0) -> ViewBatch:
    """Tweets of windows of so many sub-tokens, the tokens of which have two, or one where none is left.

    Args:
        shape: widths of each tweet's windows.
        ids: so many sub-tokens.
        pad: the sub-token to pad with.
        rows: of the table of word vectors.
        context: so many sub-tokens are those of the context, in windows that are not short.
    """
    tweets = []
    for widths in shape:
        closings = [width - 1 - (context if width > 7 else 0) for width in widths]
        firsts = [(row, first) for row, last in enumerate(closings) for first in range(1, max(2, last), 2)]
        words = [[(place * 7) % rows for place in range(width)] for width in widths]
        tweets.append(
            EncodedView(
                windows=[ids(width) for width in widths],
                rows=[row for row, _ in firsts],
                positions=[first for _, first in firsts],
                ends=[min(first + 2, max(2, closings[row])) for row, first in firsts],
                closings=closings,
                context_used="",
                words=words,
                casing=[[(token + has) % 3 / 2 for has in range(len(FEATURES))] for token, _ in enumerate(firsts)],
            )
        )
    return collate(tweets, pad)


class _Graph(nn.Module):
    def __init__(self, tagger: TaggerModel) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, inputs: GraphInputs) -> tuple[Tensor, ...]:
        crf, emissions = self.tagger.crf, self.tagger.token_emissions(inputs)
        # A graph's output must be computed: `+ 0.0` stays in it as a constant.
        return emissions, crf.transitions + 0.0, crf.start + 0.0, crf.stop + 0.0


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Mutes what the exporter says about torchvision, which a tagger does not use, and about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
