"""Boxes that people have drawn, in Pascal VOC's XML: a file a picture, as labelImg writes it and GMNER has it."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(folder: Path) -> Iterator[tuple[Path, str, list[ObjectTag]]]:
    """The files of a folder, each with what it is called without its ending, and its boxes in the file's order.

    The picture is named by the file, not by what the file says of it, which differs where files were renamed.

    Raises:
        UserError: there is no such file, or one is no VOC annotation or declares a document type (which may make any
            reader run out of memory).
    """
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise UserError(f"{folder}: no .xml file in it; expected a folder of Pascal VOC annotations, a file a picture")
    for file in files:
        content = file.read_bytes()
        if b"<!" in content:
            raise UserError(f"{file}: it has a document type, an entity or a comment; expected elements alone")
        try:
            root = ElementTree.fromstring(content)  # noqa: S314 - without declarations there is nothing to expand
        except ElementTree.ParseError as error:
            raise UserError(f"{file}: not XML: {error}") from None
        yield file, file.stem, [_tag(file, each) for each in root.iter("object")]


def _tag(file: Path, element: ElementTree.Element) -> ObjectTag:
    name = (element.findtext("name") or "").strip()
    try:
        x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{side}") or "") for side in _SIDES)
        if not name or not (0 <= x0 <= x1 and 0 <= y0 <= y1):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{file}: an object {name!r:.60}; expected a name and a bndbox of {', '.join(_SIDES)}, in pixels"
        ) from None
    return ObjectTag(name, None, None, (x0, y0, x1, y1))
