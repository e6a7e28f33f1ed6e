# ruff: noqa: PTH109, PTH123, SIM115 -- the standard library alone, and little of it: it must start fast
import json
import os
import signal
import sys
import time

step = json.load(open("step.json"))
plan = step["physics"]["plan"]
todo = plan[step["attempt"] - 1] if step["attempt"] <= len(plan) else "ok"
force = 0.0 if step["kind"] == "relax" else step["physics"]["force"]
geometry = dict(
    step["geometry"],
    cell=[x * 1.001 for x in step["geometry"]["cell"]]
    if step["kind"] == "relax"
    else step["geometry"]["cell"],
)
forces = [[force, 0.0, 0.0]] + [[0.0, 0.0, 0.0]] * (len(geometry["numbers"]) - 1)
frame = {"geometry": geometry, "energy": -sum(geometry["cell"]), "forces": forces, "stress": [0.0] * 6}
result = {"status": "ok", "final": frame, "n_ionic_steps": 1, "cpu_time_s": 0.01, "max_memory_mib": 5.0}


def frames():
    with open("frames.jsonl", "w") as stream:
        stream.write(json.dumps(frame) + "\n")


def write(data):
    with open("result.json", "w") as stream:
        json.dump(data, stream)


if todo == "ok":
    frames()
    write(result)
elif todo == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif todo == "exit3":
    frames()
    write(result)
    sys.exit(3)
elif todo == "sleep":
    time.sleep(60)
elif todo == "slow":
    time.sleep(0.5)
    frames()
    write(result)
elif todo == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
elif todo == "greedy":
    hog = bytearray(200 * 2**20)
    time.sleep(60)
elif todo == "tampered":
    frames()
    write(result)
    step["physics"]["ecut"] = 1
    json.dump(step, open("step.json", "w"))
else:
    frames()
    write({"status": "error", "code": todo, "message": "as planned at 0x7f00deadbeef in " + os.getcwd()})
