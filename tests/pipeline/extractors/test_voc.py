"""Boxes in Pascal VOC's XML become objects of the picture that their file is called like."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.extractors.registry import choose

BOX = """<annotation>
\t<folder>9-split</folder>
\t<filename>renamed.jpg</filename>
\t<path>D:\\\u7814\\renamed.jpg</path>
\t<object>
\t\t<name>Bieber</name>
\t\t<truncated>1</truncated>
\t\t<bndbox><xmin>132</xmin><ymin>22</ymin><xmax>500</xmax><ymax>706</ymax></bndbox>
\t</object>
\t<object>
\t\t<name>Basic Instincts</name>
\t\t<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>
\t</object>
</annotation>
"""


def lookup(folder: Path, name: str) -> list[ObjectTag] | None:
    chosen = choose("objects", {"extractor": "precomputed", "precomputed": {"path": str(folder)}})
    chosen.require()
    extractor: Any = chosen.create()
    found: list[ObjectTag] | None = extractor.lookup(name)
    return found


def test_boxes_are_found_by_the_name_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "1000046.xml").write_text(BOX, encoding="utf-8")
    (tmp_path / "17_06_1.xml").write_text("<annotation></annotation>", encoding="utf-8")
    assert lookup(tmp_path, "1000046.jpg") == [
        ObjectTag("Bieber", None, None, (132.0, 22.0, 500.0, 706.0)),
        ObjectTag("Basic Instincts", None, None, (1.0, 2.5, 3.0, 4.0)),
    ]
    assert lookup(tmp_path, "17_06_1.jpg") == []
    assert lookup(tmp_path, "renamed.jpg") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"a\.xml: not XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', r"a\.xml: it has a document type"),
        (BOX.replace("<xmin>132</xmin>", ""), r"a\.xml: an object 'Bieber'; expected a name and a bndbox"),
        (BOX.replace("<xmin>132", "<xmin>900"), r"a\.xml: an object 'Bieber'"),
        (BOX.replace("132", "nan"), r"a\.xml: an object 'Bieber'"),
        (BOX.replace("<name>Bieber</name>", ""), r"a\.xml: an object ''"),
    ],
)
def test_what_is_no_annotation_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        lookup(tmp_path, "a.jpg")


def test_a_folder_without_annotations_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.xml file in it"):
        lookup(tmp_path, "a.jpg")
