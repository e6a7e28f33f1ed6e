"""A release served by the command, as a user would start it, and the consortium's validator against it."""

import contextlib
import json
import re
import subprocess
import sys

#: Starts the command with a network that reaches this machine alone.
OFFLINE = """
import socket, sys
real = socket.socket.connect
def connect(self, address):
    assert address[0] in ("127.0.0.1", "::1"), f"network: {address}"
    return real(self, address)
socket.socket.connect = connect
from hullforge.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def served(release):
    """Give the address at which `hullforge serve` answers, on a machine without a network."""
    command = [sys.executable, "-c", OFFLINE, "serve", str(release), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            found = re.match(r"(http://127\.0\.0\.1:\d+)/ serves", line)
            if not found:
                server.terminate()
                raise AssertionError(line + server.stderr.read())
            yield found[1]
        finally:
            server.terminate()


def validated(address):
    """What optimade-validator counts; it must have ended well."""
    validator = [sys.executable, "-c", "from optimade.validator import validate; validate()"]
    run = subprocess.run(
        [*validator, "--json", "--random-seed", "0", address], capture_output=True, text=True, check=False
    )
    result = json.loads(run.stdout)
    assert run.returncode == 0, result
    return result
