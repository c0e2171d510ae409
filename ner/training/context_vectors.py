"""Contexts as vectors, for a tagger to predict from the text alone: made once, by the encoder as it is before training.

A vector is the mean of the last hidden states of a context's sub-tokens, those of the first window of a long one, and
is kept by the digest of encoder and context: two bytes a number, no epoch, seed or run makes it again. So the target
stays where it is, and is the same whether the system reads contexts or not.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from ner.models.folder import load_tokenizer, quietly
from ner.models.pretrained import load_encoder, longest_window
from ner.training import processes
from ner.views import ViewEncoder, WindowLimits, length_sorted_batches
from pipeline.core.records import View
from pipeline.core.store import Store, batched, digest
from pipeline.settings.training import TrainParams

_VERSION = 1  # of what is stored; another one where the same encoder gives the same context another vector
_AT_ONCE = 512  # contexts that are read before their vectors are stored
_WINDOWS = 32  # of the encoder, in a batch


class ContextVectors:
    """The vectors of contexts.

    Args:
        params: the section `train` of params.yaml.
        store: where they are kept.
        encoder: folder or hub name of the pretrained encoder and its tokenizer.
        identity: what tells the encoder from any other.
    """

    def __init__(self, params: TrainParams, store: Store, encoder: Path | str, identity: str) -> None:
        self.params, self.store, self.encoder = params, store, encoder
        self._fingerprint = digest({"context vectors": identity, "max_length": params.max_length, "version": _VERSION})

    def of(self, contexts: Sequence[str], device: torch.device) -> list[np.ndarray | None]:
        """Those of some contexts, None of one without words.

        Args:
            contexts: uncut.
            device: what the encoder is read on.

        Returns:
            for each context float16, *Shape:* (hidden_width,).

        Raises:
            UserError: the encoder or its tokenizer cannot be loaded.
        """
        keys = {context: digest({"context": context}) for context in contexts if context.split()}
        if processes.is_first():
            known = self.store.known(self._fingerprint, list(keys.values()))
            missing = {context: key for context, key in keys.items() if key not in known}
            if missing:
                self._make(missing, device)
            print(f"train: vectors of {len(keys):,} contexts, {len(missing):,} of which are new", file=sys.stderr)
        processes.let_first_go_ahead("contexts")
        values = self.store.get_many(self._fingerprint, list(keys.values()))
        return [np.frombuffer(values[keys[each]], np.float16) if each in keys else None for each in contexts]

    def _make(self, missing: Mapping[str, str], device: torch.device) -> None:
        """Make and store the vectors of contexts, whose keys are given."""
        with quietly():
            encoder = load_encoder(self.encoder, self.params.revision, local_files_only=False).to(device).eval()
            tokenizer = load_tokenizer(self.encoder, self.params.revision)
        longest = min(self.params.max_length, longest_window(encoder))
        views = ViewEncoder(tokenizer, WindowLimits(longest, max_context=0, stride=0))
        with tqdm(total=len(missing), desc="contexts", unit="context", disable=None) as bar:
            for some in batched(missing, _AT_ONCE):
                encoded = views.encode([View("", context.split(), None, "") for context in some], with_context=False)
                values: dict[str, bytes] = {}
                for places in length_sorted_batches(encoded, _WINDOWS):
                    means = _means(encoder, [encoded[place].windows[0] for place in places], views.pad_id, device)
                    values |= {missing[some[place]]: mean.tobytes() for place, mean in zip(places, means, strict=True)}
                self.store.put_many(self._fingerprint, values)
                bar.update(len(some))


@torch.inference_mode()
def _means(encoder: PreTrainedModel, windows: Sequence[list[int]], pad_id: int, device: torch.device) -> np.ndarray:
    """The mean hidden state of each window's sub-tokens but its special ones, float16, *Shape:* (W, hidden_width)."""
    lengths = torch.tensor([len(window) for window in windows])
    width = int(lengths.max())
    ids = torch.tensor([[*window, *[pad_id] * (width - len(window))] for window in windows])
    places = torch.arange(width)
    mask = (places < lengths[:, None]).long()
    inside = ((places > 0) & (places < lengths[:, None] - 1)).unsqueeze(-1).to(device)
    hidden = encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
    means = (hidden * inside).sum(1) / inside.sum(1)
    found: np.ndarray = means.cpu().numpy().astype(np.float16)
    return found
