"""The `hullforge` command: the stages that the workflow's rules call, and what a user asks for by hand.

Every stage takes its settings as JSON (`--settings`), its inputs and its outputs as paths, and calls one
function. Modules are imported inside the commands, so that `hullforge status` starts in a fraction of a second.
"""

import argparse
import contextlib
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hullforge import (
    __version__,
    cli_diff,
    cli_export,
    cli_hull,
    cli_import,
    cli_init,
    cli_retry,
    cli_serve,
    cli_stats,
)
from hullforge.errors import HullforgeError

Command = Callable[[argparse.Namespace], int | None]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0 well, 1 problems found, 2 an error of input or machine."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _start_logging(getattr(arguments, "log", None))
    try:
        return arguments.run(arguments) or 0
    except HullforgeError as error:
        logging.getLogger("hullforge").error("%s", error)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        if (words := _machine_fault(error)) is None:
            raise
        logging.getLogger("hullforge").error("%s", words)
        return 2
    except KeyboardInterrupt:
        return 130


def _machine_fault(error: OSError) -> str | None:
    """Say in one sentence what is wrong with the machine; None for what may be a defect of hullforge."""
    # pyarrow gives the number in the text alone.
    found = re.search(r"\[[Ee]rrno (\d+)\]", str(error))
    number = error.errno or (int(found[1]) if found else 0)
    where = f"{error.filename}: " if error.filename else ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        need = "make room"
    elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
        need = "make the folder writable"
    else:
        return None
    return f"{where}{os.strerror(number)}. Nothing that is finished is lost: {need}, then run the same command again"


def _start_logging(log: Path | None) -> None:
    """Log to the terminal, and to the rule's log file too where there is one."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log, mode="w"))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, format="hullforge: %(message)s", force=True)
    logging.getLogger("hullforge").setLevel(logging.INFO)


# ------------------------------------------------------------------------------------------------ stages


def _prototypes(a: argparse.Namespace) -> None:
    from hullforge.config import PrototypesSettings
    from hullforge.crystals import prototypes

    prototypes.build(_settings(PrototypesSettings, a), a.out, a.rejects)


def _harvest(a: argparse.Namespace) -> None:
    from hullforge.config import HarvestSettings
    from hullforge.crystals import harvest

    harvest.run(_settings(HarvestSettings, a), a.prototypes, a.calculations, a.hull, a.out, a.rejects)


def _screen(a: argparse.Namespace) -> None:
    from hullforge.config import ScreenSettings
    from hullforge.screening import screen

    screen.run(
        _settings(ScreenSettings, a), a.prototypes, a.screener, a.hull, a.shard, a.out, a.known, a.candidates
    )


def _select(a: argparse.Namespace) -> None:
    from hullforge.config import SelectSettings
    from hullforge.screening import select

    select.run(_settings(SelectSettings, a), a.prototypes, a.shards, a.earlier, a.out, a.known, a.candidates)


def _prerelax(a: argparse.Namespace) -> None:
    from hullforge.config import PrerelaxSettings
    from hullforge.potentials import prerelax

    prerelax.run(_settings(PrerelaxSettings, a), a.prototypes, a.selection, a.batch, a.out, a.workers)


def _dft(a: argparse.Namespace) -> None:
    from hullforge.config import DftSettings, Execution, Limits, validated
    from hullforge.dft import batch
    from hullforge.store import atomic
    from hullforge.store.progress import RETRY

    limits = Limits(
        step_time_s=a.step_time,
        structure_time_s=a.structure_time,
        silence_s=a.silence,
        memory_mib=a.memory,
        closing_s=a.closing,
    )
    section = atomic.read_json(a.execution) if a.execution else {}
    execution = validated(Execution, section, str(a.execution))
    number = RETRY if a.batch == "retry" else int(a.batch)
    at_once = max(1, a.cores // execution.cores_per_calculation)
    batch.run(
        _settings(DftSettings, a), a.starts, number, a.work, a.out, at_once, limits, execution, a.stop_after
    )


def _promote(a: argparse.Namespace) -> None:
    from hullforge.config import PromotionSettings
    from hullforge.thermo import promote

    promote.run(_settings(PromotionSettings, a), a.hull, a.calculations, a.out)


def _collect(a: argparse.Namespace) -> None:
    from hullforge.dft import collect

    frames = {functional: a.out / "frames" / f"{functional}.parquet" for functional in a.functionals}
    names = {name: a.out / f"{name}.parquet" for name in ("calculations", "failures", "costs")}
    collect.run(a.batches, frames=frames, **names)


def _place(a: argparse.Namespace) -> None:
    from hullforge.thermo import changes, place

    place.run(a.functional, a.round, a.calculations, a.out, a.references, a.known, a.engine, a.corrections)
    changes.run(a.out, a.before, a.round, changes.beside(a.out))


def _label(a: argparse.Namespace) -> None:
    from hullforge.config import LabelSettings
    from hullforge.potentials import labels

    labels.run(_settings(LabelSettings, a), a.prototypes, a.out, a.checkpoint)


def _pretrain(a: argparse.Namespace) -> None:
    from hullforge.config import TrainSettings
    from hullforge.screening import pretrain

    pretrain.run(_settings(TrainSettings, a), a.prototypes, a.labels, a.out, a.checkpoint)


def _train(a: argparse.Namespace) -> None:
    from hullforge.config import TrainSettings
    from hullforge.screening import train

    train.run(
        _settings(TrainSettings, a), a.prototypes, a.calculations, a.hull, a.out, a.previous, a.checkpoint,
        a.pretrained,
    )  # fmt: skip


def _fit(a: argparse.Namespace) -> None:
    from hullforge.config import FitSettings
    from hullforge.potentials import train

    train.run(_settings(FitSettings, a), a.frames, a.calculations, a.out, a.previous, a.checkpoint)


def _report(a: argparse.Namespace) -> None:
    from hullforge.dft.engines import base
    from hullforge.reports import report

    warning = base.get(a.engine).warning
    report.run(a.campaign, warning, a.round, a.rounds, a.functionals, a.out, a.replayed, a.hulls)


def _seal(a: argparse.Namespace) -> None:
    from hullforge.dft import close

    close.run(a.round, a.campaign, a.work)


def _release(a: argparse.Namespace) -> None:
    from hullforge.config import Campaign, validated
    from hullforge.release import build

    build.run(validated(Campaign, json.loads(a.settings), "--settings"), a.rounds, a.out)


# ------------------------------------------------------------------------------------------- by hand


def _check(a: argparse.Namespace) -> int:
    from hullforge import check, config

    campaign = config.load(a.config)
    check.check_config(campaign)
    check.check_machine(campaign)
    print(f"{a.config}: campaign '{campaign.campaign}' can run here")
    for line in check.remarks(campaign):
        print(line)
    return 0


def _status(a: argparse.Namespace) -> int:
    from hullforge import config
    from hullforge.reports import status, status_text

    def look() -> dict[str, Any]:
        # Read again each time: a campaign may get rounds while somebody watches.
        campaign = config.load(a.config)
        return status.status(campaign.folder, campaign)

    if a.watch is None:
        state = look()
        print(json.dumps(state, indent=1, sort_keys=True) if a.json else status_text.render(state))
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        status_text.watch(look, a.watch, as_json=a.json)
    return 0


def _summary(a: argparse.Namespace) -> int:
    from hullforge import config
    from hullforge.reports import summary

    campaign = config.load(a.config)
    print(summary.summary(campaign.folder, campaign))
    return 0


def _verify(a: argparse.Namespace) -> int:
    from hullforge.release import verify

    problems = verify.verify(a.folder, a.previous)
    for problem in problems:
        print(problem)
    print(f"{a.folder}: {'verified, no problem found' if not problems else f'{len(problems)} problems'}")
    return 1 if problems else 0


def _replay_table(a: argparse.Namespace) -> int:
    from hullforge import config
    from hullforge.replay import build
    from hullforge.replay.sources import Columns

    columns = Columns(a.energy, a.structure, a.name, a.above, a.per_atom)
    print(build.run(config.load(a.config), a.source, columns, a.out, formation=a.formation))
    return 0


def _schema(a: argparse.Namespace) -> int:
    from hullforge import documents
    from hullforge.store import atomic

    text = documents.dictionary() if a.tables else documents.config_schema()
    if a.out:
        atomic.write_text(a.out, text)
    else:
        print(text, end="")
    return 0


# ------------------------------------------------------------------------------------------- arguments


def _seconds(text: str) -> float:
    """Give a time that is long enough for a look; raises what argparse makes a message of."""
    seconds = float(text)
    if not 1 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 1 to 1e6")
    return seconds


def _settings(model: type[Any], a: argparse.Namespace) -> Any:
    from hullforge.config import validated

    return validated(model, json.loads(a.settings), "--settings")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hullforge",
        description="Databases of DFT calculations of crystals, in rounds, as reproducible releases.",
        epilog="A campaign is run by Snakemake (snakemake --cores); these commands look at one, or are its stages.",
    )
    parser.add_argument("--version", action="version", version=f"hullforge {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def user(name: str, run: Command, help_: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=help_,
            description=f"{help_[0].upper()}{help_[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    def stage(name: str, run: Command, help_: str, *, settings: bool = True) -> argparse.ArgumentParser:
        sub = user(
            name, run, help_, f"snakemake --cores 2 --printshellcmds   # prints the calls of hullforge {name}"
        )
        if settings:
            sub.add_argument("--settings", required=True, metavar="JSON", help="what the result depends on")
        sub.add_argument("--log", type=Path, help="file that gets the messages too")
        return sub

    config = Path("config/config.yaml")
    sub = user(
        "check", _check, "check a configuration and this machine for it", "hullforge check config/config.yaml"
    )
    sub.add_argument("config", type=Path, nargs="?", default=config, help="campaign (default: %(default)s)")
    sub = user(
        "status",
        _status,
        "show what is done, running and failed",
        "hullforge status config/config.yaml --watch",
    )
    sub.add_argument("config", type=Path, nargs="?", default=config, help="campaign (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print JSON; with --watch one line a look")
    sub.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="look again every so many seconds (10)",
    )
    sub = user("summary", _summary, "print what a campaign found", "hullforge summary config/config.yaml")
    sub.add_argument("config", type=Path, nargs="?", default=config, help="campaign (default: %(default)s)")
    sub = user(
        "verify",
        _verify,
        "check a release or a campaign's folder",
        "hullforge verify results/laptop/release/2026.1",
    )
    sub.add_argument("folder", type=Path, help="folder of a release, or of a campaign")
    sub.add_argument("--previous", type=Path, help="the release before: check also what changed since")
    sub = user(
        "schema", _schema, "print the schema of the configuration or the data dictionary", "hullforge schema"
    )
    sub.add_argument("--tables", action="store_true", help="the data dictionary of all tables, as Markdown")
    sub.add_argument("--out", type=Path, help="write to this file instead")

    sub = user(
        "replay-table",
        _replay_table,
        "make the table of known results that the engine replay answers from",
        "hullforge replay-table known.csv --config config/mine.yaml --energy e_form --formation --out tables",
    )
    sub.add_argument(
        "source",
        type=Path,
        nargs="+",
        help="known results: .csv, .extxyz, or a table of calculations (.parquet)",
    )
    sub.add_argument(
        "--config",
        type=Path,
        required=True,
        help="campaign whose prototypes, elements and functional they are",
    )
    sub.add_argument("--energy", default="energy", help="column of the energy, eV (default: %(default)s)")
    sub.add_argument("--structure", default="cif", help="column of the CIF in a .csv (default: %(default)s)")
    sub.add_argument("--name", default="", help="column that names a row (default: its number)")
    sub.add_argument("--above", default="", help="column of the energy above the competing phases")
    sub.add_argument("--per-atom", action="store_true", help="energies are per atom, not per cell")
    sub.add_argument(
        "--formation", action="store_true", help="energies are formation energies; writes known.csv, too"
    )
    sub.add_argument("--out", type=Path, required=True, help="folder of the tables")
    cli_import.add(commands)
    cli_hull.add(commands)
    cli_export.add(commands)
    cli_serve.add(commands)
    cli_stats.add(commands)
    cli_diff.add(commands)
    cli_init.add(commands)
    cli_retry.add(commands)

    sub = stage("prototypes", _prototypes, "stage: compile the prototypes")
    sub.add_argument("--rejects", type=Path, required=True, help="table of what could not become a prototype")
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("harvest", _harvest, "stage: add the prototypes that earlier rounds found")
    sub.add_argument("--prototypes", type=Path, required=True, help="table of the round before")
    sub.add_argument("--calculations", type=Path, nargs="+", required=True, help="since that table was made")
    sub.add_argument("--hull", type=Path, required=True, help="first functional's hull of the round before")
    sub.add_argument("--rejects", type=Path, required=True, help="table of what could not become a prototype")
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("screen", _screen, "stage: score one shard of decorations")
    sub.add_argument("--prototypes", type=Path, required=True)
    sub.add_argument("--screener", type=Path, required=True, help="folder of the trained screener")
    sub.add_argument("--hull", type=Path, required=True, help="hull that predictions are measured against")
    sub.add_argument("--known", type=Path, help="the hull's table of known phases")
    sub.add_argument("--candidates", type=Path, help="table of the only decorations that are scored")
    sub.add_argument("--shard", type=int, required=True)
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("select", _select, "stage: choose what a round computes")
    sub.add_argument("--prototypes", type=Path, required=True)
    sub.add_argument("--shards", type=Path, nargs="*", default=[], help="screened shards; none in round 0")
    sub.add_argument("--earlier", type=Path, nargs="*", default=[], help="selections of earlier rounds")
    sub.add_argument("--known", type=Path, help="the user's table of known phases")
    sub.add_argument("--candidates", type=Path, help="table of the only decorations that may be chosen")
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("prerelax", _prerelax, "stage: relax a batch of candidates with a potential")
    sub.add_argument("--prototypes", type=Path, required=True)
    sub.add_argument("--selection", type=Path, required=True)
    sub.add_argument("--batch", type=int, required=True)
    sub.add_argument("--workers", type=int, default=1, help="relaxations at once")
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("dft", _dft, "stage: run one batch of calculations under custodian")
    sub.add_argument("--starts", type=Path, nargs="+", required=True, help="tables of starting geometries")
    sub.add_argument("--batch", required=True, help="number of the batch, or retry")
    sub.add_argument("--work", type=Path, required=True, help="folder of running calculations")
    sub.add_argument("--cores", type=int, default=1, help="cores of this job, shared by calculations at once")
    sub.add_argument(
        "--execution",
        type=Path,
        metavar="FILE",
        help="how a program of its own is started: the section execution as JSON",
    )
    sub.add_argument("--stop-after", type=float, metavar="S", help="start nothing new after so many seconds")
    sub.add_argument(
        "--closing", type=float, default=900, metavar="S", help="nor so long before the end of a SLURM job"
    )
    sub.add_argument(
        "--structure-time",
        type=float,
        default=604800,
        metavar="S",
        help="limit of all steps of one structure",
    )
    sub.add_argument("--step-time", type=float, default=3600, metavar="S", help="limit of one step, seconds")
    sub.add_argument(
        "--silence", type=float, default=1800, metavar="S", help="a silent engine counts as hung after this"
    )
    sub.add_argument("--memory", type=float, default=4000, metavar="MIB", help="limit of one calculation")
    sub.add_argument("--out", type=Path, required=True, help="folder of the batch")

    sub = stage("promote", _promote, "stage: choose what goes on to the next functionals")
    sub.add_argument("--hull", type=Path, required=True)
    sub.add_argument("--calculations", type=Path, nargs="+", required=True)
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("collect", _collect, "stage: join a round's batches", settings=False)
    sub.add_argument("--batches", type=Path, nargs="+", required=True, help="folders of batches")
    sub.add_argument("--functionals", nargs="+", required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder of the round")

    sub = stage(
        "place", _place, "stage: place all calculations of a functional on their convex hull", settings=False
    )
    sub.add_argument("--functional", required=True)
    sub.add_argument("--round", type=int, required=True)
    sub.add_argument("--calculations", type=Path, nargs="+", required=True)
    sub.add_argument("--references", type=Path, required=True, help="elemental references, written too")
    sub.add_argument("--known", type=Path, help="the user's table of known phases, placed too")
    sub.add_argument("--corrections", default="none", choices=("none", "MP2020"), help="default: %(default)s")
    sub.add_argument(
        "--before", type=Path, help="hull of the round before; what changed is written beside --out"
    )
    sub.add_argument("--engine", default="", help="engine of the calculations")
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("label", _label, "stage: let a potential label random candidates, to pre-train the screener")
    sub.add_argument("--prototypes", type=Path, required=True)
    sub.add_argument("--checkpoint", type=Path, help="file from which a killed run goes on")
    sub.add_argument("--out", type=Path, required=True)

    sub = stage("pretrain", _pretrain, "stage: train the screener on a potential's labels, before DFT's")
    sub.add_argument("--prototypes", type=Path, required=True)
    sub.add_argument("--labels", type=Path, required=True)
    sub.add_argument("--checkpoint", type=Path, help="file from which a killed training goes on")
    sub.add_argument("--out", type=Path, required=True, help="folder of the pre-trained screener")

    sub = stage("train", _train, "stage: train the screener on all rounds so far")
    sub.add_argument("--prototypes", type=Path, required=True)
    sub.add_argument("--calculations", type=Path, nargs="+", required=True)
    sub.add_argument("--hull", type=Path, required=True)
    sub.add_argument("--previous", type=Path, help="folder of the screener that a warm start goes on from")
    sub.add_argument(
        "--pretrained", type=Path, help="folder of a pre-trained screener, used without --previous"
    )
    sub.add_argument("--checkpoint", type=Path, help="file from which a killed training goes on")
    sub.add_argument("--out", type=Path, required=True, help="folder of the screener")

    sub = stage("fit", _fit, "stage: train a potential on the frames of one functional, of all rounds so far")
    sub.add_argument("--frames", type=Path, nargs="+", required=True)
    sub.add_argument("--calculations", type=Path, nargs="+", required=True)
    sub.add_argument("--previous", type=Path, help="model folder of the round before, for a warm start")
    sub.add_argument("--checkpoint", type=Path, help="file from which a killed training goes on")
    sub.add_argument(
        "--out", type=Path, required=True, help="model folder of matgl, metrics and curve beside it"
    )

    sub = stage("report", _report, "stage: write the report of a round", settings=False)
    sub.add_argument("--campaign", required=True)
    sub.add_argument("--engine", required=True)
    sub.add_argument("--round", type=int, required=True)
    sub.add_argument("--rounds", type=Path, nargs="+", required=True, help="folders of rounds 0 to this one")
    sub.add_argument("--replayed", type=Path, help="table of known results that is replayed")
    sub.add_argument("--functionals", nargs="+", required=True)
    sub.add_argument("--hulls", nargs="+", help="hull of each functional, by the stem of its file")
    sub.add_argument("--out", type=Path, required=True, help="folder of the report")

    sub = stage("seal", _seal, "stage: close a round and sweep its work folders", settings=False)
    sub.add_argument("--round", type=Path, required=True, help="folder of the round")
    sub.add_argument("--campaign", type=Path, required=True)
    sub.add_argument("--work", type=Path, required=True)

    sub = stage("release", _release, "stage: publish the sealed rounds")
    sub.add_argument("--rounds", type=Path, nargs="+", required=True, help="folders of all rounds")
    sub.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
