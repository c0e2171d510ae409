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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.models.base import TaggerConfig, TaggerModel
from ner.models.folder import ONNX_GRAPH, load_config, load_tagger, load_view_encoder
from ner.views import ViewBatch, ViewEncoder
from ner.visual import VisualBatch
from pipeline.core import checksums, onnx_files
from pipeline.core.errors import UserError
from pipeline.core.machine import is_out_of_memory

INPUTS = ("input_ids", "attention_mask", "firsts")  # see ner.models.base.TaggerModel.token_emissions
WORDS = "words"  # behind them, where the tagger has a table of word vectors
SCORES = ("transitions", "start", "stop")  # see ner.crf.chain.LinearChainCRF
OPSET = 23  # the first with attention as one operator
# onnxruntime's fused addition and layer norm, or bias and GELU, take longer on a CPU than the two apart.
_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]
_SHAPES = (
    (1, 5),
    (2, 9),
    (5, 16),
)  # windows and sub-tokens that an export is compared on; padding in all but the first
_CLOSE = 1e-3  # of the largest score: float noise is a hundredth of it
SUBTOKENS_AT_ONCE = 400  # of a thread, about: enough to be worth a call, few enough to stay in its cache


class OnnxTagger:
    """A tagger whose emissions onnxruntime computes, on the CPU; a :class:`ner.decoding.Scorer`.

    Args:
        session: an exported graph, which one thread runs.
        name: what messages call it.
        config: the tagger's.
        n_threads: how many threads run it at once, each on other windows.
    """

    def __init__(self, session: onnxruntime.InferenceSession, name: str, config: TaggerConfig, n_threads: int) -> None:
        self.name, self.config, self.reads_visual, self.asks_relation = name, config, False, False
        self.session, self.labels, self.device = session, list(config.tag_labels or ()), torch.device("cpu")
        self.n_threads, self._threads = n_threads, ThreadPoolExecutor(n_threads)
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        ones = torch.ones(1, 1, dtype=torch.long)
        words = [ones] if _has_words(config) else []
        scores = self.session.run(SCORES, _arrays(ones, ones, torch.zeros(1, dtype=torch.long), *words))
        self.crf.load_state_dict(self.crf.state_dict() | dict(zip(SCORES, map(torch.from_numpy, scores), strict=True)))

    def emissions(self, batch: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """Score every label of every token.

        Args:
            batch: a view of B tweets of at most L tokens.
            visual: not read: the graph is that of the text-only view.

        Returns:
            emissions, float32, zeros on padding, *Shape:* (B, L, n_labels).
        """
        n_windows, width = batch["input_ids"].shape
        n_parts = self.n_threads * math.ceil(n_windows * width / (self.n_threads * SUBTOKENS_AT_ONCE))
        parts = torch.arange(n_windows).tensor_split(min(n_parts, n_windows))
        scored = [batch["mask"] & torch.isin(batch["rows"], windows) for windows in parts]
        found = self._threads.map(self._run, [_inputs(batch, *part) for part in zip(parts, scored, strict=True)])
        emissions = torch.zeros(*batch["mask"].shape, len(self.labels))
        for tokens, values in zip(scored, found, strict=True):
            emissions[tokens] = values
        return emissions

    def relation(self, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """The graph is that of the text-only view, which asks for none."""
        raise NotImplementedError

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        return self.run(inputs, self.name, "export the tagger again, or tag with the tagger itself")

    def run(self, inputs: dict[str, Any], trouble: str, remedy: str) -> Tensor:
        """Emissions of tokens.

        Args:
            inputs: the graph's.
            trouble: the beginning of the message where it fails.
            remedy: its end.

        Returns:
            emissions, *Shape:* (N, n_labels).

        Raises:
            UserError: onnxruntime fails on these inputs.
        """
        try:
            return torch.from_numpy(self.session.run(["emissions"], inputs)[0])
        except Exception as error:  # onnxruntime's errors share no other base
            if is_out_of_memory(error):
                remedy = "memory runs out: tag with a smaller --batch-size"
            shape = tuple(inputs["input_ids"].shape)
            raise UserError(
                f"{trouble}: onnxruntime fails on sub-tokens of shape {shape} ({_first(error)}); {remedy}"
            ) from None


def _inputs(batch: ViewBatch, windows: Tensor, tokens: Tensor) -> dict[str, Any]:
    """A part of a batch as the graph's inputs.

    Args:
        batch: a view of B tweets of at most L tokens.
        windows: consecutive windows, *Shape:* (n_windows,).
        tokens: True on the tokens that those windows score, *Shape:* (B, L).
    """
    mask = batch["attention_mask"][windows]
    width = int(mask.sum(1).max())
    firsts = (batch["rows"][tokens] - windows[0]) * width + batch["positions"][tokens]
    words = [batch["words"][windows, :width]] if "words" in batch else []
    return _arrays(batch["input_ids"][windows, :width], mask[:, :width], firsts, *words)


def _arrays(*inputs: Tensor) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in zip((*INPUTS, WORDS), inputs, strict=False)}


def _has_words(config: TaggerConfig) -> bool:
    """Whether the graph takes rows of the tagger's table of word vectors."""
    return (config.facts or {}).get("words") is not None


def load(folder: Path) -> tuple[OnnxTagger, ViewEncoder]:
    """An exported tagger and the encoder of its views, from nothing but their folder, on torch's number of threads.

    Raises:
        UserError: the folder is not as it was exported, or onnxruntime cannot read the graph.
    """
    config = load_config(folder)
    onnx_files.external_files(folder / ONNX_GRAPH)
    return _open(folder, config), load_view_encoder(folder, config)


def _open(folder: Path, config: TaggerConfig) -> OnnxTagger:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its threads would wait for each other in every operator
    options.log_severity_level = 4  # what fails is in the error, too
    graph = folder / ONNX_GRAPH
    try:
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
        return OnnxTagger(session, str(graph), config, torch.get_num_threads())
    except Exception as error:  # onnxruntime's errors share no other base
        raise UserError(
            f"{graph}: onnxruntime cannot read it ({_first(error)}); export the tagger again: "
            f"python -m ner.onnx export TAGGER {folder}"
        ) from None


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def export(tagger: str | Path, folder: str | Path) -> Path:
    """Write a tagger's graph (and its weights, beside it), config and tokenizer to a new folder.

    The folder appears when the graph gives the tagger's scores on several shapes of batches, or not at all.

    Raises:
        UserError: the tagger's folder is not one, the target exists, or the encoder cannot be exported.
    """
    source, target = Path(tagger), Path(folder)
    if target.exists():
        raise UserError(f"{target}: exists already; name a new folder, or remove it")
    model, _ = load_tagger(source)
    graph = _Graph(model).eval()
    # More than one of everything: a dimension of one would be taken for a constant.
    ids = torch.full((3, 9), 4)
    windows, width = torch.export.Dim("windows"), torch.export.Dim("width", max=model.config.max_length)
    dimensions = [{0: windows, 1: width}, {0: windows, 1: width}, {0: torch.export.Dim("tokens")}]
    inputs, names = [ids, torch.ones_like(ids), torch.arange(5)], list(INPUTS)
    if _has_words(model.config):
        dimensions.append({0: windows, 1: width})
        inputs.append(torch.zeros_like(ids))
        names.append(WORDS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        written = Path(temporary, target.name)
        written.mkdir()
        try:
            with torch.inference_mode(False), torch.no_grad(), _quiet_export():
                program = torch.onnx.export(
                    graph,
                    tuple(inputs),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=names,
                    output_names=["emissions", *SCORES],
                    dynamic_shapes={"inputs": tuple(dimensions)},
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
        _compare(model, _open(written, model.config), source)
        checksums.seal(written)
        os.rename(written, target)
    return target


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
    """Check that a graph gives a tagger's scores, of one window and of several, padded and not.

    Raises:
        UserError: it fails on one of them, or gives other scores.
    """
    generator = torch.Generator().manual_seed(0)
    known = model.encoder.get_input_embeddings().weight.shape[0]
    for windows, width in _SHAPES:
        width = min(width, model.config.max_length)
        ids = torch.randint(known, (windows, width), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(1, windows):
            mask[row, max(1, width - row) :] = 0
        inputs = [ids, mask, mask.flatten().nonzero()[:, 0]]
        if _has_words(model.config):
            inputs.append(torch.randint(len((model.config.facts or {})["words"]), ids.shape, generator=generator))
        with torch.inference_mode():
            wanted = model.token_emissions(*inputs)
        found = exported.run(_arrays(*inputs), f"{source}: {_encoder(model)} cannot be exported", _STAY)
        if not float((found - wanted).abs().max()) <= _CLOSE * max(1.0, float(wanted.abs().max())):
            raise UserError(
                f"{source}: the graph of {_encoder(model)} gives other scores than the tagger on {windows} windows of "
                f"{width} sub-tokens; {_STAY}"
            )


class _Graph(nn.Module):
    def __init__(self, tagger: TaggerModel) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        crf, emissions = self.tagger.crf, self.tagger.token_emissions(*inputs)
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
