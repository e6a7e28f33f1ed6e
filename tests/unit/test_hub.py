"""Models of a hub: fetched once, found in the cache from then on, and a clear error at once without a network."""

import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials import base, hub, matgl

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)
COMMIT = "c" * 40


@pytest.fixture
def nothing_fetched(tmp_path, monkeypatch):
    """No cache and no server."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_without_a_network_a_name_fails_at_once(nothing_fetched):
    start = time.monotonic()
    with pytest.raises(
        ModelError, match=r"owner/net@v1 is not in the cache, and http://127.* can't be reached; fetch it"
    ):
        base.check(Prerelax(backend="matgl", hub="owner/net@v1"), ("Al",))
    assert time.monotonic() - start < 5


def test_a_network_that_never_answers_is_given_up(nothing_fetched, monkeypatch):
    def never(*_, **__):
        threading.Event().wait(5)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", never)
    monkeypatch.setattr(hub, "CONNECT_S", 0.2)
    start = time.monotonic()
    with pytest.raises(ModelError, match="can't be reached"):
        hub.folder("owner/net", matgl.FILES)
    assert time.monotonic() - start < 3


def test_the_hub_that_was_switched_off_is_not_called(nothing_fetched, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_reachable", lambda _: pytest.fail("called"))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hub.folder("owner/net", matgl.FILES)


class Hub(BaseHTTPRequestHandler):
    """The two requests that the client makes for a file of a repository."""

    def do_HEAD(self):
        name = self.path.rpartition("/")[2]
        known = self.path.startswith(("/owner/net/resolve/v1/", f"/owner/net/resolve/{COMMIT}/"))
        if not known or name not in matgl.FILES:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = f"content of {name}".encode()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD  # noqa: N815 - the server's own spelling

    def log_message(self, *_):
        pass


def test_a_model_is_fetched_once(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import sys; from hullforge.potentials import hub, matgl; from hullforge.errors import ModelError\n"
        "try: print((hub.folder(sys.argv[1], matgl.FILES) / 'state.pt').read_text())\n"
        "except ModelError as error: print(error)"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip

    def fetch(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    assert fetch("owner/net@v1") == "content of state.pt\n"
    assert "owner/net@v2 can't be fetched" in fetch("owner/net@v2")
    server.shutdown()
    server.server_close()
    assert fetch("owner/net@v1") == "content of state.pt\n"
    assert "is not in the cache" in fetch("owner/net@v2")
