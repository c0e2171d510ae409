"""A hub of one repository on this machine: as much of the hub's protocol as publishing and loading a tagger speak.

Uploads are those of git-lfs, as huggingface_hub makes them without hf_xet.
"""

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

COMMIT = "c" * 40
PUBLIC = "me/public"  # a repository that is there from the first


class Hub:
    """Runs while a `with` does.

    Attributes:
        others: files that the repository holds besides, by name.
        received: what was committed, by name.
        made: (name, private) of every repository that was made; there is no right to make any but me/….
        sent: names of the files that somebody has downloaded.
    """

    def __init__(self, others: dict[str, bytes]) -> None:
        self.others = others
        self.received: dict[str, bytes] = {}
        self.made: list[tuple[str, bool]] = []
        self.sent: set[str] = set()
        self.large: dict[str, bytes] = {}  # by SHA-256, before the commit that names it

        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process that takes this for the hub, with caches and a token of its own."""
        return {
            **os.environ,
            "HF_ENDPOINT": self.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != "Bearer hf_test":
            self._answer({"error": "no token"}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            if asked["organization"] != "me":
                self._answer({"error": "no right to write"}, 403)
                return
            name = f"{asked['organization']}/{asked['name']}"
            if name == PUBLIC:
                self._answer({"error": "it is there already", "url": f"{self.hub.address}/{name}"}, 409)
                return
            self.hub.made.append((name, asked.get("private", asked.get("visibility") == "private")))
            self._answer({"url": f"{self.hub.address}/{name}", "name": name, "id": name})
        elif path.endswith("/preupload/main"):
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "shouldIgnore": False,
                            "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._answer(
                {
                    "transfer": "basic",
                    "objects": [
                        {**item, "actions": {"upload": {"href": f"{self.hub.address}/upload/{item['oid']}"}}}
                        for item in json.loads(body)["objects"]
                    ],
                }
            )
        elif path.endswith("/commit/main"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.hub.received[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.hub.received[line["value"]["path"]] = self.hub.large[line["value"]["oid"]]
                elif line["key"] == "deletedFile":
                    del self.hub.others[line["value"]["path"]]
            address = f"{self.hub.address}/me/it/commit/{COMMIT}"
            self._answer({"commitUrl": address, "commitOid": COMMIT, "success": True})
        else:
            self._answer({"error": f"no such address: {path}"}, 404)

    def do_PUT(self) -> None:
        content = self._body()
        digest = hashlib.sha256(content).hexdigest()
        if digest == self.path.removeprefix("/upload/"):
            self.hub.large[digest] = content
        self._send(b"", 200 if digest in self.hub.large else 400, {})

    def do_GET(self) -> None:
        path, files = urlsplit(self.path).path, {**self.hub.others, **self.hub.received}
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
            for name, content in files.items()
        ]
        if "/resolve/" in path:
            name = path.split(f"/resolve/{COMMIT}/")[-1]
            if name not in files:
                self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
                return
            if self.command == "GET":
                self.hub.sent.add(name)
            content = files[name]
            self._send(content, 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/me/it/tree/"):
            self._answer(entries)
        elif path == f"/api/models/{PUBLIC}":
            self._answer({"id": PUBLIC, "sha": COMMIT, "siblings": [], "private": False})
        elif path.startswith("/api/models/me/it"):
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            private = dict(self.hub.made).get("me/it", False)
            self._answer({"id": "me/it", "sha": COMMIT, "siblings": siblings, "private": private})
        else:
            self._answer({"error": f"no such address: {path}"}, 404)

    do_HEAD = do_GET
