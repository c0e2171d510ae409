"""Stage `objects`: pictures → data/contexts/objects.jsonl, or --images DIR → --output FILE."""

from stages.shared import extraction

if __name__ == "__main__":
    extraction.run("objects")
