"""Stage `ocr`: pictures → data/contexts/ocr.jsonl, or with --images DIR --output FILE any folder's lines of text."""

from stages import _extraction

if __name__ == "__main__":
    _extraction.run("ocr")
