"""What the tests want done in flair's interpreter, which has no pytest: ``python -m tests.ner.flair_side PLAN``.

The plan is a JSON list of [function below, arguments …]; what each returns is a line of JSON on stdout.
"""

import json
import sys
from pathlib import Path
from typing import Any

import flair
import torch
from flair.data import Dictionary, Sentence
from flair.embeddings import TransformerWordEmbeddings
from flair.models import SequenceTagger

from ner.interop.flair import bridge as flair_bridge
from ner.interop.flair.folder import TaggerFolder
from ner.interop.flair.trainer import sentences_of, tagger_of
from pipeline.core.errors import UserError
from pipeline.core.files import read_jsonl
from pipeline.settings.training import TrainParams

Entities = list[list[list[Any]]]


def export(folder: str, file: str) -> None:
    flair_bridge.export_tagger(Path(folder), Path(file))


def import_(file: str, folder: str) -> None:
    flair_bridge.import_tagger(Path(file), Path(folder), trust=True)


def predict(file: str, posts: list[list[str]]) -> Entities:
    """As a plain flair user does."""
    tagger = SequenceTagger.load(file)
    sentences = [Sentence(tokens) for tokens in posts]
    tagger.predict(sentences)
    assert [len(sentence) for sentence in sentences] == [len(tokens) for tokens in posts]
    return [
        [
            [span.tokens[0].idx - 1, span.tokens[-1].idx, span.get_label("ner").value]
            for span in sentence.get_spans("ner")
        ]
        for sentence in sentences
    ]


def model_card(file: str) -> dict[str, Any]:
    return SequenceTagger.load(file).model_card["training_parameters"]


def refusal(file: str, folder: str, changes: dict[str, Any]) -> str:
    """What `import` says of an exported tagger rebuilt with other options; of embeddings where they are theirs."""
    tagger = SequenceTagger.load(file)
    of_embeddings: dict[str, Any] = {
        key: changes.pop(key) for key in ("subtoken_pooling", "layers", "use_context") if key in changes
    }
    embeddings = tagger.embeddings
    if of_embeddings:
        options: dict[str, Any] = {
            "model": "",
            "saved_config": embeddings.model.config,
            "use_context_separator": False,
            "layers": "-1",
            "tokenizer_data": embeddings.to_params()["tokenizer_data"],
            **of_embeddings,
        }
        embeddings = TransformerWordEmbeddings(**options)
    dictionary = Dictionary(add_unk=False)
    for label in changes.pop("labels", ["O", "B-PER", "I-PER", "E-PER", "S-PER"]):
        dictionary.add_item(label)
    options = {"use_rnn": False, "use_crf": True, "reproject_embeddings": False, **changes}
    SequenceTagger(embeddings, dictionary, "ner", **options).save(file + ".changed")
    try:
        flair_bridge.import_tagger(Path(file + ".changed"), Path(folder), trust=True)
    except UserError as error:
        return str(error)
    return "taken"


def loss(folder: str, rows: str, params: dict[str, Any], part: int) -> dict[str, Any]:
    """The loss of all rows as one batch, taken in parts of so many tweets, its gradient and terms; no dropout."""
    model = tagger_of(TaggerFolder(Path(folder)), TrainParams.model_validate(params))
    model.train()
    sentences = sentences_of(list(read_jsonl(rows)), params["views"])
    model.n_tweets = len(sentences)
    total = 0.0
    for start in range(0, len(sentences), part):
        value, count = model.forward_loss(sentences[start : start + part])
        assert count == len(sentences[start : start + part])
        value.backward()
        for sentence in sentences:
            sentence.clear_embeddings()
        total += float(value.detach())
    n_labels = len(model.label_dictionary) - 2
    start_tag = model.loss_function.start_tag
    return {
        "loss": total,
        "terms": model.sums,
        "emission.weight": model.linear.weight.grad[:n_labels].tolist(),
        "crf.transitions": model.crf.transitions.grad[:n_labels, :n_labels].T.tolist(),
        "crf.start": model.crf.transitions.grad[:n_labels, start_tag].tolist(),
        "words": model.embeddings.model.embeddings.word_embeddings.weight.grad.tolist(),
    }


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    flair_bridge.quiet_flair()
    flair.device = torch.device("cpu")
    torch.set_num_threads(1)
    for name, *arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        print(json.dumps(globals()[name](*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
