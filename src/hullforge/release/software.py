"""What a release was made with: software.json and requirements.lock.

Comes in: the campaign and its calculations; the installed packages are asked what they are. Goes out: versions and
commit of this code, a hash of its files, versions of the packages it stands on, the engine, and each data set with
its hash; and every package that took part, pinned. The same on one environment; another one gives other bytes. No
path, no name of a machine.
"""

import functools
import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hullforge
from hullforge.config import Campaign
from hullforge.release import layout

_NAME = "hullforge"
#: Extras that take no part in a campaign.
_NO_PART = frozenset({"dev", "benchmarks"})
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)")


def document(campaign: Campaign, calculations: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Give the content of software.json; `calculations`: the table of each functional."""
    return {
        _NAME: {"version": hullforge.__version__, "commit": _commit(), "source_sha256": _source()},
        "python": platform.python_version(),
        "packages": dict(sorted(_direct().items())),
        "engine": {"name": campaign.engine.name, "version": campaign.engine.version},
        "theories": theories(calculations),
        "data_sets": _data_sets(campaign, calculations),
    }


def theories(calculations: Mapping[str, pa.Table]) -> dict[str, dict[str, Any]]:
    """Give software and data sets of each theory, as the rows of calculations name them."""
    found: dict[str, dict[str, Any]] = {}
    for functional, table in calculations.items():
        columns = ("theory_id", "software", "software_version", "pseudopotentials")
        for theory, *engine, names in zip(*(table[c].to_pylist() for c in columns), strict=True):
            entry = found.setdefault(
                theory, {"functional": functional, "software": set(), "pseudopotentials": set()}
            )
            entry["software"].add(" ".join(engine))
            entry["pseudopotentials"] |= set(names)
    return {
        theory: entry | {key: sorted(entry[key]) for key in ("software", "pseudopotentials")}
        for theory, entry in sorted(found.items())
    }


def lock() -> str:
    """Give the packages that hullforge needs, directly or not, as installed here; without itself and what isn't."""
    head = (
        f"# Packages below hullforge {hullforge.__version__} where this release was built, with Python"
        f" {platform.python_version()}; hullforge itself: software.json.\n"
    )
    return "".join([head, *(f"{name}=={version}\n" for name, version in _installed())])


def problems(folder: Path, calculations: Mapping[str, pa.Table]) -> Iterator[str]:
    """Give what is wrong with both files of a release; `calculations`: the tables that could be read."""
    pins = {}
    try:
        for number, line in enumerate((folder / layout.LOCK).read_text("utf-8").splitlines(), 1):
            pin = _PIN.fullmatch(line)
            if pin:
                pins[canonicalize_name(pin[1])] = pin[2]
            elif not line.startswith("#"):
                yield f"{layout.LOCK}: line {number} pins no package: {line!r}"
                return
    except OSError:
        yield f"{layout.LOCK}: missing; make the release again with this hullforge"
    try:
        data = json.loads((folder / layout.SOFTWARE).read_text("utf-8"))
        given, packages = data["theories"], dict(data["packages"])
        assert data[_NAME]["version"]
    except FileNotFoundError:
        yield f"{layout.SOFTWARE}: missing; make the release again with this hullforge"
        return
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        yield f"{layout.SOFTWARE}: does not say what the release was made with ({error!r})"
        return
    for name, version in packages.items():
        if pins and pins.get(canonicalize_name(name)) != version:
            yield f"{layout.SOFTWARE}: {name} {version}, {layout.LOCK} has {pins.get(canonicalize_name(name))}"
    for theory, entry in theories(calculations).items():
        if given.get(theory) != entry:
            yield f"{layout.SOFTWARE}: theory {theory} is {given.get(theory)}, the calculations say {entry}"


def _direct() -> dict[str, str]:
    """Versions of the packages that hullforge names itself, extras not among them."""
    names = {canonicalize_name(r.name) for r in _requirements(_NAME, {""})}
    return {name: version for name, version in _installed() if name in names}


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Name and version of every installed package that hullforge needs, sorted.

    Of a hullforge that runs from its sources and isn't installed, nobody knows the needs: of all packages there are.
    """
    try:
        extras = set(importlib.metadata.metadata(_NAME).get_all("Provides-Extra") or ()) - _NO_PART
    except importlib.metadata.PackageNotFoundError:
        found = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
        return tuple(sorted(found.items()))
    seen: dict[str, str] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    waiting: list[tuple[str, frozenset[str]]] = [(_NAME, frozenset({"", *extras}))]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in asked:
            continue
        asked.add((name, wanted))
        try:
            seen[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [
            (canonicalize_name(r.name), frozenset({"", *r.extras})) for r in _requirements(name, wanted)
        ]
    seen.pop(_NAME, None)
    return tuple(sorted(seen.items()))


def _requirements(name: str, extras: Iterable[str]) -> list[Requirement]:
    """Give what a package needs here with these extras; nothing of one that isn't installed."""
    try:
        found = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    except importlib.metadata.PackageNotFoundError:
        return []
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]


def _source() -> str:
    """SHA-256 of the names and bytes of the package's files: equal for equal code, wherever it was taken from."""
    digest = hashlib.sha256()
    root = Path(hullforge.__file__).parent
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix()):
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("."):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _commit() -> str | None:
    """Commit that the code was installed or checked out from; None where it came without one."""
    try:
        origin = json.loads(importlib.metadata.distribution(_NAME).read_text("direct_url.json") or "{}")
        if "vcs_info" in origin:
            return str(origin["vcs_info"]["commit_id"])
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError):
        pass
    root = Path(hullforge.__file__).parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / ".git").exists():
        return None  # installed: a repository around it is another one's
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _data_sets(campaign: Campaign, calculations: Mapping[str, pa.Table]) -> dict[str, str | None]:
    """SHA-256 of the decompressed file of each of GPAW's data sets, null where it isn't here; VASP's stand in `theories`."""
    if campaign.engine.name != "gpaw":
        return {}
    from hullforge.dft.engines import gpaw

    used = {
        name.partition(" ")[0]
        for entry in theories(calculations).values()
        for name in entry["pseudopotentials"]
    }
    return gpaw.dataset_hashes(used)
