"""Stage `ocr`: pictures → data/contexts/ocr.jsonl, or --images DIR → --output FILE."""

from stages import _extraction

if __name__ == "__main__":
    _extraction.run("ocr")
