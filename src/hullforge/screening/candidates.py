"""Which decorations may be chosen at all: all of them, or those that a table lists.

Comes in: the table that the key `candidates` names, and the decorations of the prototypes. Goes out: per prototype
the ascending ranks that are listed. Stages that would go through all ranks of a prototype go through places in
that list instead, so that a place, and with it the block that a candidate is evaluated in, depends on the list
alone, never on shards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hullforge.crystals.decorations import Decorations, Ranks
from hullforge.errors import ConfigError, PrototypeError


@dataclass(frozen=True, eq=False)
class Candidates:
    """The decorations that may be chosen; `listed` is None where all may, else ascending ranks by prototype id."""

    listed: Mapping[str, Ranks] | None = field(default=None)

    def count(self, space: Decorations) -> int:
        """Give how many decorations of a prototype may be chosen."""
        return space.count if self.listed is None else len(self._of(space))

    def ranks(self, space: Decorations, places: Ranks) -> Ranks:
        """Give the ranks at `places` (P,), numbers from 0 to below `count`."""
        return places if self.listed is None else self._of(space)[places]

    def holds(self, space: Decorations, rank: int) -> bool:
        """Say whether a decoration may be chosen."""
        if self.listed is None:
            return True
        mine = self._of(space)
        at = int(np.searchsorted(mine, rank))
        return at < len(mine) and int(mine[at]) == rank

    def _of(self, space: Decorations) -> Ranks:
        assert self.listed is not None
        return self.listed.get(space.prototype.prototype_id, np.zeros(0, dtype=np.int64))


def load(path: Path | None, spaces: Sequence[Decorations]) -> Candidates:
    """Read a table of candidates, a Parquet file with the columns prototype_id and species; None: all may be chosen.

    Rows that repeat a candidate, also in an equivalent arrangement, count once. Raises `ConfigError` naming the
    file, what was found and what is allowed: another table, prototypes that the campaign lacks, elements outside
    the pool, decorations that don't fit their prototype or its site groups.
    """
    if path is None:
        return Candidates()
    by_id = {space.prototype.prototype_id: space for space in spaces}
    groups: dict[str, list[list[str]]] = {}
    for name, species in _rows(path):
        groups.setdefault(name, []).append(species)
    strangers = sorted(set(groups) - set(by_id))
    if strangers:
        number = sum(len(groups[name]) for name in strangers)
        raise ConfigError(
            f"key 'candidates': {number} rows of {path} are of prototypes that the campaign lacks, the first of"
            f" {strangers[0]}; it has {_some(sorted(by_id))}. Set prototypes as for the table"
        )
    if not groups:
        raise ConfigError(f"key 'candidates': {path} has no rows")
    return Candidates({name: _ranks(by_id[name], rows, path) for name, rows in sorted(groups.items())})


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ConfigError(f"key 'candidates': {path}: no such file")
    try:
        schema = pq.read_schema(path)
        missing = [name for name in ("prototype_id", "species") if name not in schema.names]
        if missing:
            raise ConfigError(
                f"key 'candidates': {path} lacks the column {', '.join(missing)}; it has {_some(schema.names)}"
            )
        table = pq.read_table(path, columns=["prototype_id", "species"])
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"key 'candidates': {path} is not a whole Parquet file: {error}") from None
    kind = table.schema.field("species").type
    if not (pa.types.is_list(kind) and pa.types.is_string(kind.value_type)):
        raise ConfigError(
            f"key 'candidates': the column species of {path} is {kind}; a list of symbols is needed"
        )
    return list(zip(table["prototype_id"].to_pylist(), table["species"].to_pylist(), strict=True))


def _ranks(space: Decorations, rows: list[list[str]], path: Path) -> Ranks:
    """Give the ascending ranks of the decorations `rows`, symbols in the order of the prototype's species."""
    index = {symbol: at for at, symbol in enumerate(space.elements)}
    where = f"key 'candidates': {path}, {space.prototype.prototype_id}"
    outside = sorted({symbol for row in rows for symbol in row} - set(index))
    if outside:
        raise ConfigError(f"{where}: {', '.join(outside)} not in the pool of elements (key 'elements')")
    bad = [row for row in rows if len(row) != space.prototype.nspecies or len(set(row)) < len(row)]
    if bad:
        raise ConfigError(
            f"{where}: {'-'.join(bad[0])} does not fit; {space.prototype.nspecies} different elements are needed"
        )
    indices = np.array([[index[symbol] for symbol in row] for row in rows], dtype=np.int64)
    allowed = space.allows(indices)
    if not allowed.all():
        row = rows[int(allowed.argmin())]
        raise ConfigError(f"{where}: {'-'.join(row)} is not allowed by prototypes.site_groups")
    try:
        return np.unique(space.rank(indices))
    except PrototypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _some(names: Sequence[str], number: int = 5) -> str:
    """List some names."""
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")
