"""A tagger on onnxruntime: ``python -m ner.onnx export models/tagger FOLDER``, then predict from that folder.

The exported graph makes emissions and gives the CRF's scores as outputs of their own; decoding and confidences stay
:mod:`ner.crf`'s, so both engines give the same entities. Training, and all that needs gradients, is torch's.
"""

import argparse
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from ner.crf import LinearChainCRF
from ner.labels import allowed_transitions
from ner.tagger import (
    ONNX_GRAPH,
    CrossViewTagger,
    TaggerConfig,
    load_config,
    load_tagger,
    load_view_encoder,
    quietly,
)
from ner.views import ViewBatch, ViewEncoder
from pipeline.errors import UserError, run_cli

INPUTS = ("input_ids", "attention_mask", "rows", "positions")  # of a ViewBatch: [R, S], [R, S], [B, L], [B, L]
SCORES = ("transitions", "start", "stop")  # [K, K], [K], [K]
OPSET = 20
# onnxruntime's fused addition and layer norm take longer on a CPU than the two apart.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]


class OnnxTagger:
    """A tagger whose emissions onnxruntime makes, on the CPU; what :class:`ner.predict.Tagger` decodes from."""

    def __init__(self, session: onnxruntime.InferenceSession, config: TaggerConfig) -> None:
        self.session, self.labels, self.device = session, list(config.tag_labels or ()), torch.device("cpu")
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        one = {name: torch.ones(1, 1, dtype=torch.long).numpy() for name in INPUTS[:2]}
        zero = {name: torch.zeros(1, 1, dtype=torch.long).numpy() for name in INPUTS[2:]}
        scores = map(torch.from_numpy, session.run(SCORES, one | zero))
        self.crf.load_state_dict(self.crf.state_dict() | dict(zip(SCORES, scores, strict=True)))

    def emissions(self, batch: ViewBatch) -> Tensor:
        """Emissions [B, L, K], float32, of one view's batch; see :class:`ner.views.ViewBatch`."""
        (emissions,) = self.session.run(["emissions"], {name: batch[name].numpy() for name in INPUTS})
        return torch.from_numpy(emissions)


def load(folder: Path) -> tuple[OnnxTagger, ViewEncoder]:
    """An exported tagger and the encoder of its views, from nothing but their folder, on torch's number of threads.

    Raises:
        UserError: onnxruntime cannot read the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its idle threads would slow torch's
    config = load_config(folder)
    try:
        session = onnxruntime.InferenceSession(str(folder / ONNX_GRAPH), options, providers=["CPUExecutionProvider"],
                                               disabled_optimizers=_SLOW_FUSIONS)
        tagger = OnnxTagger(session, config)
    except Exception as error:  # onnxruntime's errors share no other base
        raise UserError(f"{folder / ONNX_GRAPH}: onnxruntime cannot read it ({error}); export the tagger again: "
                        f"python -m ner.onnx export TAGGER {folder}") from error
    return tagger, load_view_encoder(folder, config)


def export(tagger: str | Path, folder: str | Path) -> Path:
    """Write a tagger's graph (and its weights, beside it), config and tokenizer to a new folder.

    Raises:
        UserError: the tagger is none, or the folder is there already.
    """
    source, target = Path(tagger), Path(folder)
    if target.exists():
        raise UserError(f"{target}: is there already; name a folder that is not, or remove it")
    model, _ = load_tagger(source)
    graph = _Graph(model).eval()
    # Two of everything: a dimension of one would be taken for a constant.
    ids, places = torch.full((3, 9), 4), torch.tensor([[1, 2, 3, 4]] * 2)
    example = (ids, torch.ones_like(ids), torch.tensor([[0] * 4, [1] * 4]), places)
    windows, width = torch.export.Dim("windows"), torch.export.Dim("width", max=model.config.max_length)
    tweets, tokens = torch.export.Dim("tweets"), torch.export.Dim("tokens")
    dimensions = [{0: windows, 1: width}] * 2 + [{0: tweets, 1: tokens}] * 2
    target.mkdir(parents=True)
    try:
        with torch.inference_mode(False), torch.no_grad(), _plain_attention(model), _quiet_export():
            torch.onnx.export(
                graph, example, target / ONNX_GRAPH, dynamo=True, opset_version=OPSET, input_names=INPUTS,
                output_names=["emissions", *SCORES], dynamic_shapes=tuple(dimensions), verbose=False,
            )
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
    except BaseException:
        shutil.rmtree(target)
        raise
    return target


class _Graph(nn.Module):
    def __init__(self, tagger: CrossViewTagger) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        hidden = self.tagger.encode(input_ids, attention_mask)
        crf = self.tagger.crf
        # A graph's output must be computed: `+ 0.0` stays in it as a constant.
        return self.tagger.emission(hidden[rows, positions]), crf.transitions + 0.0, crf.start + 0.0, crf.stop + 0.0


@contextmanager
def _plain_attention(model: CrossViewTagger) -> Iterator[None]:
    """Attention as products and a softmax, which onnxruntime runs faster than the parts of torch's fused one."""
    before = model.encoder.config._attn_implementation
    model.encoder.set_attn_implementation("eager")
    yield
    model.encoder.set_attn_implementation(before)


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Mutes what the exporter says of torchvision, which a tagger has no use for, and of its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.onnx", description="Run a tagger on onnxruntime.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="write a tagger as an ONNX graph that ner.predict reads")
    exporting.add_argument("tagger", metavar="TAGGER", help="a tagger's folder, such as models/tagger")
    exporting.add_argument("folder", metavar="FOLDER", help="a folder to be made, such as models/tagger-onnx")
    arguments = parser.parse_args()
    with quietly():
        written = export(arguments.tagger, arguments.folder)
    n_bytes = sum(path.stat().st_size for path in written.iterdir())
    print(f"{written}: {n_bytes / 1e6:,.1f} MB; tag with: python -m ner.predict {written}", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
