"""`python -m stages.serve MODEL`: entities of posts and pictures over HTTP, with a page to try it on."""

if __name__ == "__main__":
    from pipeline.core.errors import run_cli
    from sightread.serve import main

    run_cli(lambda: main("python -m stages.serve"))
