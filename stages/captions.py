"""Stage `captions`: pictures → data/contexts/captions.jsonl, or with --images DIR --output FILE any folder's captions."""

from stages import _extraction

if __name__ == "__main__":
    _extraction.run("captions")
