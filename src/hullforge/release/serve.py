"""`hullforge serve`: a release folder as a web service, the OPTIMADE API and a page about the release.

Comes in: a release folder, a host and a port. Goes out: answers, until it is stopped. Nothing is written but the
server's own configuration, in a temporary folder. Only this machine can reach it unless another host is named.
"""

import importlib.util
import socket
import tempfile
from pathlib import Path

from hullforge.errors import HullforgeError, TableError
from hullforge.release import layout

_NEEDED = ("duckdb", "optimade", "fastapi", "uvicorn", "mongomock", "pymongo", "lark")


def run(folder: Path, host: str, port: int) -> None:
    """Serve the release `folder` until Ctrl-C; `port` 0 takes any free one.

    Raises `TableError` for a folder that is no release, `SealError` for one that was changed, and `HullforgeError`
    for a port that can't be had and for packages that are missing.
    """
    folder = Path(folder)
    for name in (layout.SUMS, layout.DATASET, layout.CONFIG):
        if not (folder / name).is_file():
            raise TableError(
                f"{folder}: not a release folder: it has no {name}, which every finished release has;"
                " give release/<version> of a campaign"
            )
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise HullforgeError(
            f"serving a release needs packages that are not installed ({', '.join(missing)}):"
            " pip install 'hullforge[serve]'"
        )
    listening = _listen(host, port)
    with listening, tempfile.TemporaryDirectory(prefix="hullforge-serve-") as scratch:
        from hullforge.release import optimade_api

        application = optimade_api.app(folder, Path(scratch))
        import uvicorn

        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{listening.getsockname()[1]}/ serves {folder}; Ctrl-C stops it", flush=True)
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False))
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the tables are read, so that a user need not wait to hear that it is in use."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise HullforgeError(
            f"can't listen on {host}, port {port}: {error}; --port names another, --port 0 takes a free one"
        ) from error
