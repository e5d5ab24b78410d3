"""A hub on this machine: the few answers of huggingface.co that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(folder: Path, repo: str) -> Iterator[tuple[str, list[str]]]:
    """The endpoint under which the files of `folder` are a repository, and the names of the files it has sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, whole: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            prefix = f"/{repo}/resolve/{COMMIT}/"
            if path.startswith(f"/api/models/{repo}/tree/"):
                self._send(json.dumps([_entry(folder, name) for name in _names(folder)]).encode(), whole)
            elif path.startswith(f"/api/models/{repo}"):
                names = [{"rfilename": name} for name in _names(folder)]
                self._send(json.dumps({"id": repo, "sha": COMMIT, "siblings": names}).encode(), whole)
            elif path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                sent.append(path.removeprefix(prefix))
                self._send((folder / path.removeprefix(prefix)).read_bytes(), whole)
            else:
                self.send_error(404)

        def _send(self, data: bytes, whole: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if whole:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _entry(folder: Path, name: str) -> dict[str, object]:
    data = (folder / name).read_bytes()
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
