"""What a training records of itself does not hang on how a card is worded."""

import subprocess
import sys

from tests.conftest import ROOT


def test_the_train_stage_loads_neither_the_card_nor_onnxruntime() -> None:
    """So that rewording a card, or another version of an exported graph, trains nothing again."""
    script = "import sys, stages.train; print(sorted(name for name in sys.modules if name.startswith('ner.interop')))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['ner.interop', 'ner.interop.flair', 'ner.interop.flair.training']"
