"""What the tests of pictures share: pictures made and encoded, colours compared."""

import io

from PIL import Image

from pipeline.settings.params import ImagesParams

LIMITS = ImagesParams()
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def two_halves(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), (0, 0, 255))
    picture.paste(RED, (0, 0, width // 2, height))
    return picture


def close(found: object, expected: tuple[int, int, int], tolerance: int = 6) -> bool:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance  # type: ignore[call-overload]
