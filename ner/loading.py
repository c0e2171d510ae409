"""A trained tagger by name, ready to score views: of a folder or of the hub, on torch or on onnxruntime.

It stands above the models and the engines, so that neither of them has to know the other.
"""

from pathlib import Path

from ner.decoding import Scorer, choose_device
from ner.models.folder import ONNX_GRAPH, load_tagger, quietly
from ner.views import ViewEncoder
from pipeline.core import checkpoints, memory
from pipeline.core.errors import UserError


def load(tagger: str | Path, device: str, revision: str | None) -> tuple[Scorer, ViewEncoder]:
    """A trained tagger and the encoder of its views.

    Args:
        tagger: a folder, or where there is none of that name, a hub repository (`owner/name`).
        device: auto, cpu, cuda, cuda:1, …; an exported tagger is run on the CPU.
        revision: commit, branch or tag of a hub repository.

    Raises:
        UserError: the folder is not a tagger's, the hub does not give it, or there is no such device.
    """
    folder = _find(tagger, revision)
    with quietly():
        if (folder / ONNX_GRAPH).exists():
            from ner.interop import onnx  # onnxruntime is loaded only where it runs the tagger

            return onnx.load(folder)
        memory.keep_few_kernels()
        model, encoder = load_tagger(folder)
        return model.to(choose_device(device)), encoder


def _find(tagger: str | Path, revision: str | None) -> Path:
    """A tagger's folder: a local one, or that of the hub's cache, which is filled on first use.

    `models/…` never means the hub: it is where the pipeline writes, perhaps not yet.
    """
    name, folder = str(tagger), Path(tagger)
    if folder.is_dir() or folder.parts[:1] == ("models",) or name.count("/") != 1 or not checkpoints.is_hub_name(name):
        if revision is not None:
            raise UserError(f"{tagger}: a local folder has no revision; leave it out")
        return folder
    return checkpoints.resolve(name, revision).folder
