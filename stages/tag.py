"""`python -m stages.tag MODEL --images DIR < posts.jsonl`: entities with and without pictures, without DVC."""

if __name__ == "__main__":
    from pipeline.core.errors import run_cli
    from sightread.tag import main

    run_cli(lambda: main("python -m stages.tag"))
