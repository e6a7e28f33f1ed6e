"""Models of a Hugging Face hub: from the cache if they were fetched before, else fetched, or a clear error at once.

Comes in: a name, `owner/name@revision`; a bare name is one of matgl's own collection, without a revision it is the
newest at the first use, and the cached one from then on. Goes out: a folder with the model's files. Without a network
the hub's client would retry each file for half a minute; here its server is called once, for a second.
"""

import os
import socket
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from hullforge.errors import ModelError

#: Where matgl's own models are.
OWNER = "materialyze"
#: Seconds within which the hub's server must take a connection.
CONNECT_S = 2.0


def folder(name: str, files: Sequence[str]) -> Path:
    """Give the folder with the `files` of the model `name`, fetching what is not in the cache.

    Raises `ModelError` when the hub can't be reached, or has no such model.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise ModelError(
            "prerelax.hub: huggingface_hub is not installed; run: pip install 'hullforge[matgl]'"
        ) from error

    path, _, revision = name.partition("@")
    repository = path if "/" in path else f"{OWNER}/{path}"

    def all_files(*, local: bool) -> Path:
        return {
            Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=local)).parent
            for file in files
        }.pop()

    try:
        return all_files(local=True)
    except OSError:  # the client's way to say that a file is not in its cache
        pass
    except ValueError as error:
        raise ModelError(f"prerelax.hub: {name!r} is no name of a model: {error}") from error
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    advice = (
        "fetch it where there is a network (`hullforge check` does), or give its folder as prerelax.model"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ModelError(f"prerelax.hub: {name} is not in the cache, and HF_HUB_OFFLINE is set; {advice}")
    if not _reachable(address):
        raise ModelError(
            f"prerelax.hub: {name} is not in the cache, and {address} can't be reached; {advice}"
        )
    try:
        return all_files(local=False)
    except (OSError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise ModelError(f"prerelax.hub: {name} can't be fetched from {address}: {text}") from error


def _reachable(address: str) -> bool:
    """Whether the server (or the proxy in front of it) takes a connection; the name's look-up may hang, so wait beside it."""
    parts = urlsplit(address)
    proxies = urllib.request.getproxies()
    if parts.scheme in proxies and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxies[parts.scheme])
    port = parts.port or (80 if parts.scheme == "http" else 443)
    answers: list[bool] = []

    def knock() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    return bool(answers)
