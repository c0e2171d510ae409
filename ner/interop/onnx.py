"""A tagger on onnxruntime: ``python -m ner.onnx export models/tagger FOLDER``, then predict from that folder.

The exported graph computes emissions and returns the CRF's scores beside them; decoding and confidences stay in
:mod:`ner.crf.chain`, so both engines give the same entities. Training needs torch.
"""

import logging
import math
import shutil
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
from pipeline.core.errors import UserError

INPUTS = ("input_ids", "attention_mask", "firsts")  # see ner.models.base.TaggerModel.token_emissions
SCORES = ("transitions", "start", "stop")  # see ner.crf.chain.LinearChainCRF
OPSET = 23  # the first with attention as one operator
# onnxruntime's fused addition and layer norm, or bias and GELU, take longer on a CPU than the two apart.
_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]
SUBTOKENS_AT_ONCE = 400  # of a thread, about: enough to be worth a call, few enough to stay in its cache


class OnnxTagger:
    """A tagger whose emissions onnxruntime computes, on the CPU; a :class:`ner.decoding.Scorer`.

    Args:
        session: an exported graph, which one thread runs.
        config: the tagger's.
        n_threads: how many threads run it at once, each on other windows.
    """

    def __init__(self, session: onnxruntime.InferenceSession, config: TaggerConfig, n_threads: int) -> None:
        self.session, self.labels, self.device = session, list(config.tag_labels or ()), torch.device("cpu")
        self.n_threads, self._threads = n_threads, ThreadPoolExecutor(n_threads)
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        ones = torch.ones(1, 1, dtype=torch.long)
        scores = self.session.run(SCORES, _arrays(ones, ones, torch.zeros(1, dtype=torch.long)))
        self.crf.load_state_dict(self.crf.state_dict() | dict(zip(SCORES, map(torch.from_numpy, scores), strict=True)))

    def emissions(self, batch: ViewBatch) -> Tensor:
        """Score every label of every token.

        Args:
            batch: a view of B tweets of at most L tokens.

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

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        return torch.from_numpy(self.session.run(["emissions"], inputs)[0])


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
    return _arrays(batch["input_ids"][windows, :width], mask[:, :width], firsts)


def _arrays(*inputs: Tensor) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}


def load(folder: Path) -> tuple[OnnxTagger, ViewEncoder]:
    """An exported tagger and the encoder of its views, from nothing but their folder, on torch's number of threads.

    Raises:
        UserError: onnxruntime cannot read the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its threads would wait for each other in every operator
    config = load_config(folder)
    try:
        session = onnxruntime.InferenceSession(
            str(folder / ONNX_GRAPH), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
        tagger = OnnxTagger(session, config, torch.get_num_threads())
    except Exception as error:  # onnxruntime's errors share no other base
        raise UserError(
            f"{folder / ONNX_GRAPH}: onnxruntime cannot read it ({error}); export the tagger again: "
            f"python -m ner.onnx export TAGGER {folder}"
        ) from error
    return tagger, load_view_encoder(folder, config)


def export(tagger: str | Path, folder: str | Path) -> Path:
    """Write a tagger's graph (and its weights, beside it), config and tokenizer to a new folder.

    Raises:
        UserError: the tagger's folder is not one, or the target exists.
    """
    source, target = Path(tagger), Path(folder)
    if target.exists():
        raise UserError(f"{target}: exists already; name a new folder, or remove it")
    model, _ = load_tagger(source)
    graph = _Graph(model).eval()
    # More than one of everything: a dimension of one would be taken for a constant.
    ids = torch.full((3, 9), 4)
    windows, width = torch.export.Dim("windows"), torch.export.Dim("width", max=model.config.max_length)
    dimensions = ({0: windows, 1: width}, {0: windows, 1: width}, {0: torch.export.Dim("tokens")})
    target.mkdir(parents=True)
    try:
        with torch.inference_mode(False), torch.no_grad(), _quiet_export():
            torch.onnx.export(
                graph,
                (ids, torch.ones_like(ids), torch.arange(5)),
                target / ONNX_GRAPH,
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=["emissions", *SCORES],
                dynamic_shapes=dimensions,
                verbose=False,
            )
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
    except BaseException:
        shutil.rmtree(target)
        raise
    return target


class _Graph(nn.Module):
    def __init__(self, tagger: TaggerModel) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, input_ids: Tensor, attention_mask: Tensor, firsts: Tensor) -> tuple[Tensor, ...]:
        crf, emissions = self.tagger.crf, self.tagger.token_emissions(input_ids, attention_mask, firsts)
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
