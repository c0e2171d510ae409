"""Stage `features`: pictures → data/features, tensors of every picture, or --images DIR → --output FOLDER."""

from stages.shared import extraction

if __name__ == "__main__":
    extraction.run("features")
