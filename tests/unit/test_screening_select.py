"""Selection: the strata get their shares, and every rule is kept."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

from hullforge.config import Bootstrap, Chemistry, Include, Selection, SelectSettings, SiteGroups, Strata
from hullforge.crystals.chemistry import Filter
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype, compile_structure
from hullforge.errors import ConfigError, TableError
from hullforge.screening import choices, select
from hullforge.store import ids, tables
from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import Stratum

ELEMENTS = ("Li", "Mg", "Al", "Si")


def compiled() -> list[Prototype]:
    structures = {
        "copper": bulk("Cu"),
        "tungsten": bulk("W"),
        "magnesium": bulk("Mg"),
        "diamond": bulk("C"),
        "halite": bulk("NaCl", "rocksalt", a=5.6),
        "fluorite": bulk("CaF2", "fluorite", a=5.4),
        "cesium chloride": bulk("CsCl", "cesiumchloride", a=4.1),
    }
    heusler = bulk("Cu").repeat((2, 2, 1))
    heusler.symbols[:] = ["Cu", "Mn", "Al", "Cu"]
    structures["ternary"] = heusler
    return sorted(
        (compile_structure(a, n, "test") for n, a in structures.items()), key=lambda p: p.prototype_id
    )


KNOWN = compiled()
BY_NAME = {prototype.name: prototype for prototype in KNOWN}


def settings(budget: int = 12, batches: int = 1, round_: int = 0, **parts) -> SelectSettings:
    defaults = {"bootstrap": Bootstrap(), "selection": Selection(), "elements": ELEMENTS, "seed": 1}
    return SelectSettings(round=round_, budget=budget, batches=batches, **(defaults | parts))


def run(folder: Path, settings: SelectSettings, shards=(), earlier=()) -> list[dict[str, Any]]:
    tables.write(folder / "prototypes.parquet", "prototypes", [p.row() for p in KNOWN])
    out = folder / f"selection-{settings.round}.parquet"
    select.run(settings, folder / "prototypes.parquet", list(shards), list(earlier), out)
    return tables.read_rows(out, "selection")


def screen_row(
    prototype: Prototype, rank: int, e: float | None, std: float, is_control: bool
) -> dict[str, Any]:
    chosen = Decorations(prototype, ELEMENTS).unrank([rank])[0]
    species = [ELEMENTS[at] for at in chosen]
    return {
        "prototype_id": prototype.prototype_id,
        "rank": rank,
        "species": species,
        "candidate_id": ids.candidate_id(prototype.prototype_id, species),
        "is_control": is_control,
        "predicted_formation_energy_per_atom": -0.1,
        "predicted_e_above_hull": e,
        "uncertainty": std,
        "predicted_volume_per_atom": 15.0,
        "latent_distance": 1.0,
    }


def screen_table(path: Path, keep=lambda _: True) -> list[dict[str, Any]]:
    """All decorations of several species, predicted by hashes; every fourth is a control."""
    rows = []
    for prototype in KNOWN:
        if prototype.nspecies == 1:
            continue
        for rank in range(Decorations(prototype, ELEMENTS).count):
            row = screen_row(prototype, rank, 0.0, 0.0, False)
            name = row["candidate_id"]
            row["predicted_e_above_hull"] = ids.unit_interval(1, name) * 0.6 - 0.1
            row["uncertainty"] = ids.unit_interval(2, name) * 0.3
            row["latent_distance"] = ids.unit_interval(4, name) * 3
            row["is_control"] = ids.unit_interval(3, name) < 0.25
            rows.append(row)
    rows = [row for row in rows if keep(row)]
    tables.write(path, "screen", rows)
    return rows


# ---- round 0


def test_the_bootstrap_meets_its_budget_with_its_shares(tmp_path):
    include = (Include(prototype="AB2_cF12_225_a_c", elements=("Si", "Mg")),)
    rows = run(tmp_path, settings(20, bootstrap=Bootstrap(elements_share=0.4, include=include)))
    strata = Counter(row["stratum"] for row in rows)
    assert strata == {"include": 1, "element": 8, "coverage": 11}
    assert len({row["candidate_id"] for row in rows}) == 20
    [silicide] = [row for row in rows if row["stratum"] == "include"]
    assert silicide["species"] == ["Si", "Mg"]
    assert silicide["chemical_formula_reduced"] == "Mg2Si"
    assert silicide["candidate_id"] == ids.candidate_id(silicide["prototype_id"], ["Si", "Mg"])
    assert all(row[name] is None for row in rows for name in choices.PREDICTED)


def test_each_element_starts_with_its_ground_state(tmp_path):
    rows = run(tmp_path, settings(4, bootstrap=Bootstrap(elements_share=0.0)))
    names = {p.prototype_id: p.name for p in KNOWN}
    found = {row["species"][0]: names[row["prototype_id"]] for row in rows}
    assert found == {"Li": "tungsten", "Mg": "magnesium", "Al": "copper", "Si": "diamond"}


def test_ranks_stand_for_the_species_of_the_row(tmp_path):
    for row in run(tmp_path, settings(40)):
        prototype = next(p for p in KNOWN if p.prototype_id == row["prototype_id"])
        [chosen] = Decorations(prototype, ELEMENTS).unrank([row["rank"]])
        assert [ELEMENTS[at] for at in chosen] == row["species"]


def test_the_bootstrap_keeps_to_site_groups_and_chemistry(tmp_path):
    groups = (SiteGroups(prototype="fluorite", elements={"A": ("Si",), "B": ("Mg", "Li")}),)
    chemistry = Chemistry(test="pauling")
    rows = run(tmp_path, settings(60, site_groups=groups, chemistry=chemistry))
    mine = {tuple(row["species"]) for row in rows if row["prototype_id"] == BY_NAME["fluorite"].prototype_id}
    assert mine == {("Si", "Mg")}  # Li2Si is not neutral
    several = [row for row in rows if len(row["species"]) > 1]
    for row in several:
        numbers = np.array([[NUMBERS[symbol] for symbol in row["species"]]])
        counts = next(p for p in KNOWN if p.prototype_id == row["prototype_id"]).species_counts
        assert Filter(chemistry).passes(numbers, counts)[0], row["species"]
    assert len(several) < sum(Decorations(p, ELEMENTS).count for p in KNOWN if p.nspecies > 1)
    assert sum(len(row["species"]) == 1 for row in rows) == 4 * 4


def test_inclusions_and_elements_that_site_groups_forbid_are_refused(tmp_path):
    include = (Include(prototype="fluorite", elements=("Si", "Mg")),)
    groups = (SiteGroups(prototype="fluorite", elements={"A": ("Al",)}),)
    with pytest.raises(
        ConfigError, match=r"'bootstrap.include.0.elements': found Si, Mg, which prototypes.site_groups"
    ):
        run(tmp_path, settings(12, bootstrap=Bootstrap(include=include), site_groups=groups))
    unary = [p.name for p in KNOWN if p.nspecies == 1]
    groups = tuple(SiteGroups(prototype=name, elements={"A": ("Al", "Li")}) for name in unary)
    with pytest.raises(ConfigError, match="no elemental structure for Mg, Si"):
        run(tmp_path, settings(12, site_groups=groups))


def test_shards_of_other_site_groups_are_refused(tmp_path):
    screen_table(tmp_path / "shard.parquet")
    groups = (SiteGroups(prototype="ternary", elements={"A": ("Mg", "Al", "Si")}),)
    free = Selection(max_per_composition=10**6, max_per_prototype=10**6)
    with pytest.raises(
        TableError, match=r"the shards are of another pool of elements or of other prototypes.site_groups"
    ):
        run(
            tmp_path,
            settings(200, round_=1, selection=free, site_groups=groups),
            [tmp_path / "shard.parquet"],
        )


def test_coverage_spreads_over_prototypes_and_systems(tmp_path):
    rows = [
        r
        for r in run(tmp_path, settings(20, bootstrap=Bootstrap(elements_share=0.2)))
        if r["stratum"] == "coverage"
    ]
    assert len(rows) == 16
    per_prototype = Counter(row["prototype_id"] for row in rows)
    assert per_prototype[BY_NAME["ternary"].prototype_id] == 8
    assert sorted(
        per_prototype[BY_NAME[n].prototype_id] for n in ("halite", "fluorite", "cesium chloride")
    ) == [2, 3, 3]
    systems = Counter(tuple(sorted(row["species"])) for row in rows)
    assert {system for system in systems if len(system) == 2} == {
        tuple(sorted((a, b))) for a in ELEMENTS for b in ELEMENTS if a < b
    }
    assert [systems[system] for system in systems if len(system) == 3] == [2, 2, 2, 2]


def test_equivalent_inclusions_are_one(tmp_path):
    include = tuple(Include(prototype="halite", elements=pair) for pair in (("Mg", "Al"), ("Al", "Mg")))
    rows = run(tmp_path, settings(6, bootstrap=Bootstrap(include=include)))
    assert Counter(row["stratum"] for row in rows)["include"] == 1


@pytest.mark.parametrize("name", ["halite", BY_NAME["halite"].protostructure, BY_NAME["halite"].prototype_id])
def test_inclusions_name_prototypes_in_three_ways(tmp_path, name):
    rows = run(
        tmp_path, settings(5, bootstrap=Bootstrap(include=(Include(prototype=name, elements=("Li", "Al")),)))
    )
    [row] = [row for row in rows if row["stratum"] == "include"]
    assert row["prototype_id"] == BY_NAME["halite"].prototype_id


@pytest.mark.parametrize(
    ("prototype", "elements", "message"),
    [
        ("halit", ("Li", "Al"), r"bootstrap\.include\.0\.prototype.*'halit'; close to it: halite"),
        ("halite", ("Li",), "found 1 .Li., but halite has 2 species"),
        ("halite", ("Li", "O"), r"O not in the pool of elements \(Li, Mg, Al, Si\)"),
        ("halite", ("Li", "Li"), "its own element"),
    ],
)
def test_inclusions_that_do_not_fit_are_named(tmp_path, prototype, elements, message):
    include = (Include(prototype=prototype, elements=elements),)
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, settings(bootstrap=Bootstrap(include=include)))


def test_a_budget_too_small_for_the_elements_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="at least 4 is needed"):
        run(tmp_path, settings(3))
    include = (Include(prototype="halite", elements=("Li", "Al")),)
    with pytest.raises(ConfigError, match="at least 5 is needed"):
        run(tmp_path, settings(4, bootstrap=Bootstrap(include=include)))


def test_an_included_element_needs_no_second_reference(tmp_path):
    include = (Include(prototype="copper", elements=("Al",)),)
    rows = run(tmp_path, settings(4, bootstrap=Bootstrap(include=include, elements_share=0.0)))
    assert sorted(row["species"][0] for row in rows) == sorted(ELEMENTS)


def test_a_budget_beyond_all_candidates_takes_all(tmp_path):
    rows = run(tmp_path, settings(10_000))
    assert len(rows) == sum(Decorations(p, ELEMENTS).count for p in KNOWN)


def test_batches_cost_about_the_same(tmp_path):
    rows = run(tmp_path, settings(40, batches=4))
    sites = {p.prototype_id: p.nsites for p in KNOWN}
    cost = [sum(sites[r["prototype_id"]] ** 2 for r in rows if r["batch"] == batch) for batch in range(4)]
    assert max(cost) - min(cost) <= max(sites.values()) ** 2
    assert sum(cost) == sum(sites[r["prototype_id"]] ** 2 for r in rows)


# ---- later rounds


def test_strata_follow_their_orders(tmp_path):
    screened = screen_table(tmp_path / "shard.parquet")
    free = Selection(strata=Strata(exploit=0.5, explore=0.3, control=0.2), max_per_composition=99)
    rows = run(tmp_path, settings(20, round_=1, selection=free), [tmp_path / "shard.parquet"])
    by = {
        stratum: [row for row in rows if row["stratum"] == stratum]
        for stratum in ("exploit", "explore", "control")
    }
    assert {name: len(found) for name, found in by.items()} == {"exploit": 10, "explore": 6, "control": 4}
    is_control = {row["candidate_id"] for row in screened if row["is_control"]}
    assert {row["candidate_id"] for row in by["control"]} <= is_control
    taken = {row["candidate_id"] for row in by["control"]}
    lowest = sorted(
        (r for r in screened if r["candidate_id"] not in taken), key=lambda r: r["predicted_e_above_hull"]
    )
    assert {r["candidate_id"] for r in by["exploit"]} == {r["candidate_id"] for r in lowest[:10]}
    near = [r for r in screened if r["predicted_e_above_hull"] - r["uncertainty"] <= select.EXPLORE_WINDOW]
    spread = sorted(near, key=lambda r: -r["uncertainty"])
    strange = sorted(near, key=lambda r: -r["latent_distance"])
    in_turn = [row["candidate_id"] for pair in zip(spread, strange, strict=True) for row in pair]
    taken |= {r["candidate_id"] for r in lowest[:10]}
    wanted = [name for name in dict.fromkeys(in_turn) if name not in taken]
    assert {r["candidate_id"] for r in by["explore"]} == set(wanted[:6])
    source = {row["candidate_id"]: row for row in screened}
    for row in rows:
        assert all(
            row[name] == source[row["candidate_id"]][name] for name in (*choices.PREDICTED, "rank", "species")
        )
    assert {row["round"] for row in rows} == {1}


def test_limits_bind_all_but_the_control(tmp_path):
    screen_table(tmp_path / "shard.parquet")
    tight = Selection(
        strata=Strata(exploit=0.5, explore=0.5, control=0.0), max_per_composition=1, max_per_prototype=4
    )
    rows = run(tmp_path, settings(12, round_=1, selection=tight), [tmp_path / "shard.parquet"])
    bound = [row for row in rows if row["stratum"] != "control"]
    assert max(Counter(row["chemical_formula_reduced"] for row in bound).values()) == 1
    assert max(Counter(row["prototype_id"] for row in bound).values()) <= 4
    only = Selection(
        strata=Strata(exploit=0, explore=0, control=1), max_per_composition=1, max_per_prototype=1
    )
    control = run(tmp_path, settings(9, round_=1, selection=only), [tmp_path / "shard.parquet"])
    assert Counter(row["stratum"] for row in control) == {"control": 9}
    assert max(Counter(row["prototype_id"] for row in control).values()) > 1


def test_the_limit_of_a_prototype_is_that_of_its_family():
    # Two prototypes of one protostructure label, as free parameters or a harvest give them.
    halite, chloride = BY_NAME["halite"], BY_NAME["cesium chloride"]
    twin = replace(chloride, protostructure=halite.protostructure)
    known = [twin if prototype is chloride else prototype for prototype in KNOWN]
    rows = [
        screen_row(prototype, rank, 0.01 * rank, 0.1, False)
        for prototype in (halite, chloride, BY_NAME["fluorite"])
        for rank in range(Decorations(prototype, ELEMENTS).count)
    ]
    limited = Selection(
        strata=Strata(exploit=1, explore=0, control=0), max_per_composition=99, max_per_prototype=5
    )
    found = select.screened(
        settings(99, round_=1, selection=limited), known, tables.from_rows("screen", rows), set()
    )
    assert Counter(choice.prototype.protostructure for choice in found) == {
        halite.protostructure: 5,
        BY_NAME["fluorite"].protostructure: 5,
    }
    assert {halite.prototype_id, twin.prototype_id} <= {choice.prototype.prototype_id for choice in found}


def test_what_was_selected_before_is_left_out_and_missing_strata_are_filled(tmp_path):
    run(tmp_path, settings(12))
    shard = tmp_path / "shard.parquet"
    everything = {row["candidate_id"] for row in screen_table(shard, keep=lambda row: not row["is_control"])}
    earlier = [tmp_path / "selection-0.parquet"]
    first = {row["candidate_id"] for row in tables.read_rows(earlier[0], "selection")}
    rows = run(tmp_path, settings(15, round_=1), [shard], earlier)
    found = {row["candidate_id"] for row in rows}
    assert len(rows) == 15
    assert not found & first
    assert "control" not in {row["stratum"] for row in rows}
    earlier.append(tmp_path / "selection-1.parquet")
    free = Selection(max_per_composition=999)
    last = run(tmp_path, settings(999, round_=2, selection=free), [shard], earlier)
    assert {row["candidate_id"] for row in last} == everything - first - found


def test_several_shards_are_one_space(tmp_path):
    rows = screen_table(tmp_path / "whole.parquet")
    shards = [tmp_path / f"{part}.parquet" for part in range(3)]
    for part, path in enumerate(shards):
        tables.write(path, "screen", rows[part::3])
    whole = run(tmp_path, settings(15, round_=1), [tmp_path / "whole.parquet"])
    assert run(tmp_path, settings(15, round_=1), shards) == whole


def test_elements_without_a_reference_are_tried_again(tmp_path):
    rows = [screen_row(BY_NAME[name], 2, None, 1.0, False) for name in ("copper", "tungsten", "diamond")]
    tables.write(tmp_path / "a.parquet", "screen", rows)
    screen_table(tmp_path / "b.parquet")
    found = run(tmp_path, settings(10, round_=1), [tmp_path / "a.parquet", tmp_path / "b.parquet"])
    tried = {row["prototype_id"] for row in found if row["stratum"] == Stratum.ELEMENT}
    assert tried == {BY_NAME["copper"].prototype_id, BY_NAME["tungsten"].prototype_id}
    assert len(found) == 10


def test_no_candidate_gives_an_empty_table(tmp_path):
    tables.write(tmp_path / "shard.parquet", "screen", [])
    assert run(tmp_path, settings(10, round_=1), [tmp_path / "shard.parquet"]) == []


def test_shards_of_other_prototypes_are_refused(tmp_path):
    row = screen_row(BY_NAME["halite"], 0, 0.0, 0.1, False) | {"prototype_id": "another"}
    tables.write(tmp_path / "shard.parquet", "screen", [row])
    with pytest.raises(TableError, match="another"):
        run(tmp_path, settings(1, round_=1), [tmp_path / "shard.parquet"])
