"""An encoder that cannot be trained is refused by the check, before anything is extracted, and tried only once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ner.dry_pass import CODE, require_trainable
from pipeline.checks.check import check
from pipeline.core.errors import UserError
from tests.conftest import ROOT
from tests.ner.conftest import saved_encoder, small_params
from tests.test_dvc import code_deps

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
DEPENDS = "(fnet) cannot be trained here: the result of a text depends on what else is in its batch"


@pytest.fixture
def fnet(tmp_path: Path, bpe: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    return saved_encoder(tmp_path / "encoder", bpe, "FNetConfig", SIZES)


def test_the_check_names_key_line_and_reason(
    tmp_path: Path, fnet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("checkpoints/sample/xlm-r", str(fnet))
    params = tmp_path / "params.yaml"
    params.write_text(text, encoding="utf-8")
    line = 1 + next(number for number, line in enumerate(text.splitlines()) if f"encoder: {fnet}" in line)
    for tried in (True, False):
        with pytest.raises(UserError) as caught:
            check(params, require_trainable)
        assert str(caught.value).startswith(f"{params}:{line}: train.encoder: {fnet} {DEPENDS}")
        assert ("a dry pass over" in capsys.readouterr().err) is tried
    check(params)  # nothing else is wrong with it


def test_a_second_try_loads_neither_torch_nor_weights(fnet: Path) -> None:
    with pytest.raises(UserError):
        require_trainable(small_params(fnet))
    script = (
        "import sys\n"
        "from ner.dry_pass import require_trainable\n"
        "from pipeline.core.errors import UserError\n"
        "from pipeline.settings.params import TrainParams\n"
        f"try: require_trainable(TrainParams.model_validate({small_params(fnet).model_dump(mode='json')}))\n"
        "except UserError as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert DEPENDS in done.stdout
    assert done.stdout.endswith("False\n")


def test_other_windows_or_weights_are_tried_anew(
    tmp_path: Path, fnet: Path, bpe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_encoder(tmp_path / "bert", bpe, "BertConfig", SIZES)
    for changes in ({}, {}, {"max_length": 40}):
        require_trainable(small_params(folder, **changes))
    assert capsys.readouterr().err.count("a dry pass over") == 2
    saved_encoder(folder, bpe, "FNetConfig", SIZES)
    with pytest.raises(UserError, match="depends on what else"):
        require_trainable(small_params(folder))


def test_the_code_that_decides_is_all_that_it_loads() -> None:
    loaded = {place for place in code_deps("check") if place.parts[0] == "ner"} - {Path("ner/dry_pass.py")}
    assert {Path(name) for name in CODE} == loaded | {Path("pipeline/core")}


def test_a_teacher_that_is_no_tagger_is_refused(xlm_r_folder: Path) -> None:
    params = small_params(xlm_r_folder, teacher={"taggers": [str(xlm_r_folder)]})
    with pytest.raises(UserError, match=r"^train.teacher.taggers: .*: expected a tagger .*, found 'xlm-roberta'"):
        require_trainable(params)
