"""`python -m stages.serve MODEL`, `sightread serve MODEL`: tagging over HTTP, with a page to try it on.

It is bound to this machine alone unless `--host` says otherwise, and asks nobody who they are: in front of a network
belongs a proxy that does.
"""

import argparse
import io
import socket
import sys
from dataclasses import fields
from pathlib import Path

from PIL import Image

from pipeline.core.errors import UserError
from sightread.tagging import Sightread


def main(prog: str | None = None) -> None:
    """The command line; see ``--help``."""
    try:
        import uvicorn

        from sightread import server
    except ImportError as error:
        raise UserError(
            f"serving needs the module {error.name}, which is not installed: pip install 'sightread[serve]', or in a "
            "checkout: pip install --no-deps -r requirements-serve.lock"
        ) from None
    parser = argparse.ArgumentParser(prog=prog, description="Tag posts and pictures over HTTP.")
    parser.add_argument("model", metavar="MODEL", help="a tagger's folder, or OWNER/NAME on the hub")
    parser.add_argument(
        "--params", type=Path, metavar="FILE", help="which extractors read pictures; without: text alone"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on [%(default)s]")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free [%(default)s]")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, … [execution.device of params, or auto]")
    parser.add_argument("--revision", help="commit, branch or tag of a tagger on the hub")
    defaults = server.Limits()
    for name, about in (
        ("body", "bytes of a request"),
        ("posts", "posts of a request"),
        ("characters", "characters of a post's text"),
        ("pictures", "pictures of a post; params limit their bytes and pixels (images)"),
        ("seconds", "seconds that a request may take"),
        ("waiting", "requests at once, the waiting ones included"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(
            f"--max-{name}", type=type(default), default=default, metavar="N", help=f"{about} [%(default)s]"
        )
    arguments = parser.parse_args()
    given = {field.name: getattr(arguments, f"max_{field.name}") for field in fields(server.Limits)}
    for name, value in given.items():
        if value <= 0:
            raise UserError(f"--max-{name}: expected more than 0, found {value}")
    listening = listen(arguments.host, arguments.port)
    with (
        listening,
        Sightread.load(
            arguments.model, arguments.params, device=arguments.device, revision=arguments.revision
        ) as tagger,
    ):
        warm_up(tagger)
        app = server.create_app(tagger, server.Limits(**given), arguments.host)
        config = uvicorn.Config(app, server_header=False, log_level="warning", timeout_keep_alive=5)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"listening on http://{host}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before any model is loaded.

    Raises:
        UserError: the address is none of this machine, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"--host {host} --port {port}: cannot be listened on: {reason}; expected an address of this machine and a "
            "port that is free, or 0"
        ) from None


def warm_up(tagger: Sightread) -> None:
    """Tag a post, so that all models are loaded, or are found wanting, before the first request.

    Raises:
        UserError: an extractor does not load, or fails.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(buffer, "PNG")
    tagger.tag("Warming up", [buffer.getvalue()] if tagger.reader is not None else [])
