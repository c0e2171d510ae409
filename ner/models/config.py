"""The config of a tagger's folder: what must be known to rebuild the tagger, as transformers reads and writes it."""

import json
from collections.abc import Mapping
from typing import Any, Self

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from pipeline.settings.training import SELF, TrainParams


class TaggerConfig(PreTrainedConfig):
    """What a folder must say to rebuild a tagger: the system, the encoder's own config, labels, loss, windows.

    The defaults are those of taggers that were saved before a key existed.
    """

    model_type = "sightread-tagger"

    system: str = "ita"  # its name in ner/models/registry.py
    options: dict[str, Any] | None = None  # the system's own, as in train.{system} of params.yaml
    facts: dict[str, Any] | None = None  # what the system took from the training data (TaggerModel.facts_of)
    encoder: dict[str, Any] | None = None  # the encoder's config, its model_type included
    tag_labels: list[str] | None = None  # BIOES or IOB2, in the order of the emissions
    views: str = "both"
    alignment: str = "marginal"
    temperature: float = 4.0
    weight_text_only: float = 1.0
    weight_cross_modal: float = 0.5
    weight_alignment: float = 0.5
    detach_teacher: bool = True
    teacher: dict[str, Any] | None = None  # how it learns from fixed teachers (ner.models.lessons.Teaching)
    context_target: dict[str, Any] | None = None  # what the text-only view learns of contexts, while it is trained
    casing: bool = False  # whether how tokens are written is added to their vectors
    word_dropout: float = 0.1
    exclude_forbidden: bool = True  # transitions that the scheme forbids have probability 0 in training, too
    max_length: int = 512
    max_context: int = 256
    stride: int = 128
    short_addresses: bool = False  # whether of a web address its first sub-token alone is read
    marks: dict[str, dict[str, int]] | None = None  # of its data (pipeline.core.marks); None: not counted
    packs: bool | None = None  # whether packed windows give what padded ones do, as was tried; None: not yet

    @classmethod
    def of(
        cls,
        params: TrainParams,
        encoder: PreTrainedModel,
        labels: list[str],
        facts: Mapping[str, Any],
        longest: int,
        *,
        reads_context: bool,
    ) -> Self:
        """The config of a tagger that is to be trained.

        Args:
            params: the section `train` of params.yaml.
            encoder: the pretrained one.
            labels: BIOES or IOB2, in the order that emissions will have.
            facts: what the system takes from the training data.
            longest: sub-tokens that the encoder takes at once, beside what the system puts behind them.
            reads_context: whether the system reads what pictures say, in words.
        """
        weights = params.weights
        settings = json.loads(encoder.config.to_json_string(use_diff=False))
        for key in ("_name_or_path", "auto_map"):  # a path of this machine; code that is not needed here
            settings.pop(key, None)
        return cls(
            system=params.model,
            options=params.system_options.model_dump(mode="json"),
            facts=dict(facts),
            encoder=settings,
            tag_labels=labels,
            views=params.views,
            alignment=params.alignment if SELF in params.teacher.taggers else "none",
            temperature=params.temperature,
            weight_text_only=weights.text_only,
            weight_cross_modal=weights.cross_modal,
            weight_alignment=weights.alignment,
            detach_teacher=params.detach_teacher,
            teacher=params.teaching,
            context_target=params.learning_of_contexts,
            casing=params.casing,
            word_dropout=params.word_dropout,
            exclude_forbidden=params.exclude_forbidden,
            max_length=min(params.max_length, longest),
            max_context=params.max_context if reads_context else 0,
            stride=params.stride,
            short_addresses=params.short_addresses,
        )


# Lets AutoTokenizer and AutoConfig recognise a tagger's folder.
AutoConfig.register(TaggerConfig.model_type, TaggerConfig)
