"""Stage `objects`: pictures → data/contexts/objects.jsonl, or with --images DIR --output FILE any folder's object tags."""

from stages import _extraction

if __name__ == "__main__":
    _extraction.run("objects")
