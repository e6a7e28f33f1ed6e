"""The command `hullforge retry`: failures that are to be tried again, with other settings.

Comes in: a campaign's configuration and which failures. Goes out: its sub-parser, bound to one function; modules are
imported inside, as in `hullforge.cli`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hullforge.errors import ConfigError


def add(commands: Any) -> None:
    """Add `retry` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "retry",
        help="put failures back into the queue, with other settings",
        description="Put failures back into the queue, with other settings. They are computed by the next run of"
        " Snakemake, in the first round that is not sealed; the old failures keep their rows.",
        epilog="example: hullforge retry config/mine.yaml --reason walltime --limit step_time_s=14400",
    )
    sub.add_argument(
        "config",
        type=Path,
        nargs="?",
        default=Path("config/config.yaml"),
        help="campaign (default: %(default)s)",
    )
    sub.add_argument("--reason", nargs="+", default=[], help="failures with these reasons")
    sub.add_argument("--round", nargs="+", type=int, default=[], help="failures of these rounds")
    sub.add_argument("--functional", nargs="+", default=[], help="failures with these functionals")
    sub.add_argument("--id", nargs="+", default=[], help="these failures, by calculation_id")
    sub.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="numerics of the engine; the value is JSON or a word",
    )
    sub.add_argument("--limit", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the section limits")
    sub.add_argument("--max-ionic-steps", type=int, metavar="N", help="most ionic steps of one attempt")
    sub.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    sub.set_defaults(run=_retry)


def _retry(a: argparse.Namespace) -> None:
    from hullforge import check, config
    from hullforge.dft import retry

    if not (a.reason or a.round or a.functional or a.id):
        raise ConfigError("which failures? Give --reason, --round, --functional or --id")
    campaign = config.load(a.config)
    check.check_config(campaign)
    settings = config.validated(
        retry.RetrySettings,
        {"numerics": _pairs(a.set), "limits": _pairs(a.limit), "max_ionic_steps": a.max_ionic_steps},
        "hullforge retry",
    )
    wish = retry.Wish(a.reason, a.round, a.functional, a.id, settings)
    print(retry.run(campaign, wish, dry_run=a.dry_run).text())


def _pairs(words: list[str]) -> dict[str, Any]:
    """Take KEY=VALUE apart; raises `ConfigError` for anything else."""
    pairs: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"'{word}': KEY=VALUE was expected")
        try:
            pairs[key] = json.loads(text)
        except ValueError:
            pairs[key] = text
    return pairs
