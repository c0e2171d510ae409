"""What a training records of itself does not hang on how a card is worded."""

import subprocess
import sys

from ner.training import facts
from pipeline.core.records import ViewSources
from pipeline.settings.training import TrainParams
from tests.conftest import ROOT


def test_the_train_stage_loads_neither_the_card_nor_onnxruntime() -> None:
    """So that rewording a card, or another version of an exported graph, trains nothing again."""
    script = "import sys, stages.train; print(sorted(name for name in sys.modules if name.startswith('ner.interop')))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['ner.interop', 'ner.interop.flair', 'ner.interop.flair.training']"


def test_no_path_of_the_machine_is_kept() -> None:
    settings = TrainParams.model_validate(
        {"encoder": "/home/me/xlm-r", "iie4mner": {"word_vectors": "/home/me/glove.txt"}}
    )
    kept = facts.gather(settings, ViewSources("sample/data", {}, {}), "sha256:0", {}, {})
    assert "/home/me" not in str(kept)
    assert (kept["params"]["encoder"], kept["params"]["iie4mner"]["word_vectors"]) == ("xlm-r", "glove.txt")
