"""The state of a campaign as text for a terminal, once or again and again.

Comes in: what `reports.status` gives. Goes out: text; a terminal is cleared before each look, anything else gets one
look after another.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from hullforge.store.vocabulary import FailureReason

#: Homes the cursor and clears the terminal.
CLEAR = "\033[H\033[2J\033[3J"


def render(state: dict[str, Any]) -> str:
    """Give the state as text for a terminal."""
    lines = [f"campaign {state['campaign']} in {state['folder']}"]
    if not state["prototypes"]:
        lines.append("  prototypes: not yet")
    for round_ in state["rounds"]:
        lines += _round(round_)
    lines += _costs(state)
    lines += _queue(state["queue"])
    if state["errors"]:
        lines.append("last errors:")
        lines += [_error(error) for error in state["errors"]]
    lines.append(f"release: {state['release'] or 'not yet'}")
    return "\n".join(lines)


def watch(
    look: Callable[[], dict[str, Any]], every_s: float, out: TextIO | None = None, *, as_json: bool = False
) -> None:
    """Print the state every `every_s` seconds until somebody interrupts; as JSON one line a look."""
    out = out or sys.stdout
    while True:
        state = look()
        if as_json:
            print(json.dumps(state, sort_keys=True), file=out, flush=True)
        else:
            stamp = time.strftime("%H:%M:%S")
            start = CLEAR if out.isatty() else ""
            text = f"{start}{render(state)}\n({stamp}, again every {every_s:g} s, Ctrl-C ends)"
            print(text, file=out, flush=True)
        time.sleep(every_s)


def _round(round_: dict[str, Any]) -> list[str]:
    stages = round_["stages"]
    entries = [e for e in round_["functionals"] if e["planned"] is not None or _begun(e)]
    if not any(stage["done"] for stage in stages) and not entries:
        return [f"round {round_['round']}: not started (budget {round_['budget']})"]
    state = "sealed" if round_["sealed"] else "open"
    lines = [f"round {round_['round']}: {state} (budget {round_['budget']})"]
    unfinished = [stage for stage in stages if stage["done"] < stage["planned"]]
    done = [stage["stage"] for stage in stages if stage["done"] == stage["planned"]]
    lines.append(f"  done: {', '.join(done) or 'nothing'}")
    if unfinished:
        texts = [f"{stage['stage']} {stage['done']}/{stage['planned']}" for stage in unfinished]
        lines.append(f"  to do: {', '.join(texts)}")
    for entry in entries:
        lines += _functional(entry)
    return lines + [f"  broken: {problem}" for problem in round_["broken"]]


def _begun(entry: dict[str, Any]) -> bool:
    return bool(entry["converged"] + entry["failed"] + entry["running"] + sum(entry["batches"].values()))


def _functional(entry: dict[str, Any]) -> list[str]:
    planned = "?" if entry["planned"] is None else entry["planned"]
    text = f"  {entry['functional']}: {entry['converged']} converged, {entry['failed']} failed"
    if entry["running"]:
        text += f", {entry['running']} running"
    text += f", of {planned}"
    if entry["planned"]:
        text += f" ({100 * (entry['converged'] + entry['failed']) / entry['planned']:.1f} %)"
    batches = entry["batches"]
    if batches["running"] or batches["stopped"]:
        texts = [f"{number} {state}" for state, number in batches.items() if number]
        text += f"; batches: {', '.join(texts)}"
    known = {reason.value: reason.description for reason in FailureReason}
    return [
        text,
        *(
            f"    {number} {reason}: {known.get(reason, 'unknown reason')}"
            for reason, number in entry["failures"].items()
        ),
    ]


def _costs(state: dict[str, Any]) -> list[str]:
    if not state["core_hours_spent"] and not state["rate_per_hour"]:
        return []
    text = f"cost: {state['core_hours_spent']:,.1f} core-hours spent"
    if state["structures_to_go"]:
        hours = state["core_hours_to_go"]
        text += f", about {hours:,.1f} to go" if hours is not None else ", to go not known yet"
        text += f" for {state['structures_to_go']:,} structures"
    lines = [text]
    if state["rate_per_hour"]:
        text = f"rate: {state['rate_per_hour']:,.1f} structures an hour"
        if state["hours_to_go"]:
            text += f", {state['hours_to_go']:,.1f} hours to go at this rate"
        lines.append(text)
    return lines


def _queue(queue: dict[str, Any] | None) -> list[str]:
    if queue is None:
        return []
    if queue["problem"]:
        return [f"queue: {queue['problem']}"]
    states = ", ".join(f"{number} {state}" for state, number in queue["states"].items())
    waiting = ", ".join(f"{number} for {reason}" for reason, number in queue["waiting"].items())
    return [f"queue: {states or 'no jobs'}" + (f" ({waiting})" if waiting else "")]


def _error(error: dict[str, Any]) -> str:
    where = f"round {error['round']} {error['functional']} batch {error['batch']}"
    step = f" in {error['protocol_step']}" if error.get("protocol_step") else ""
    message = " ".join(error["message"].split())
    if len(message) > 160:
        message = f"{message[:157]}..."
    return f"  {where}: {error['reason']}{step}: {message}\n    {error['path']}"
