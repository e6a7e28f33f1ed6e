"""The section `prerelax` of a campaign: which potential moves the atoms before DFT does, and within which limits.

A part of `hullforge.config`, which is where all others take it from.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hullforge.sections import Section


class Prerelax(Section):
    """How geometries are relaxed before DFT."""

    backend: Annotated[str, Field(pattern=r"^(chgnet|matgl|emt|none|ase:[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)$")] = (
        Field(
            "chgnet",
            description="chgnet: its wheel carries weights; matgl: `model` or `hub`; ase:<module>.<Class>: any calculator of"
            " ASE's kind; emt: tests; none: start from the estimated volume",
        )
    )
    model: Path | None = Field(None, description="model folder (matgl)")
    hub: Annotated[str, Field(pattern=r"^(\w[\w.-]*/)?\w[\w.-]*(@\w[\w.-]*)?$")] | None = Field(
        None,
        description="model on the hub (matgl) instead of a folder: owner/name@revision, or a name of matgl's own",
    )
    arguments: dict[str, str | bool | int | float | None] = Field(
        {}, description="keyword arguments of the calculator (ase:)"
    )
    known_elements: tuple[str, ...] = Field(
        (),
        description="elements that the calculator knows (ase:); none given: each of the pool is tried once",
    )
    theory: str = Field("", description="what the calculator's energies mean (ase:), one sentence")
    fmax: float = Field(0.05, gt=0, description="limit of the largest force component, eV/angstrom")
    max_steps: int = Field(100, ge=1, description="most steps of a relaxation")
    time_limit_s: float = Field(120, gt=0, description="wall-time limit of one relaxation, in seconds")
    min_volume_ratio: float = Field(
        0.4, gt=0, lt=1, description="smaller final over starting volume counts as collapsed"
    )
    max_volume_ratio: float = Field(
        2.5, gt=1, description="larger final over starting volume counts as exploded"
    )

    isolated_cutoff: float = Field(
        6.0, gt=0, description="an atom with no neighbour within this is isolated, which is refused, angstrom"
    )
    energy_window: tuple[float, float] | None = Field(
        (-30.0, 30.0),
        description="energies of the potential outside of this are its mistake, eV/atom; null: any",
    )
    symmetry: Literal["keep", "break"] = Field(
        "keep",
        description="keep: the prototype's; break: rattle the relaxed prototype and relax it again without symmetry,"
        " which is taken where it is lower",
    )
    rattle: float = Field(
        0.05,
        gt=0,
        description="standard deviation by which positions are rattled (symmetry: break), angstrom",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where chgnet and matgl run; auto: a GPU if there is one"
    )
    batch_size: int = Field(
        256,
        ge=1,
        description="structures in one pass of the model on a GPU; halved where memory does not suffice",
    )

    @model_validator(mode="after")
    def _keys_fit_the_backend(self) -> Self:
        if self.backend == "matgl":
            if (self.model is None) == (self.hub is None):
                raise ValueError(
                    "prerelax.model: the backend matgl needs a model folder, or prerelax.hub; one of both"
                )
            names = () if self.model is None else ("model.pt", "state.pt", "model.json")
            missing = [name for name in names if not (self.model / name).is_file()]  # type: ignore[operator]  # is no None
            if missing:
                raise ValueError(
                    f"prerelax.model: {self.model} is not a matgl model folder, it lacks {', '.join(missing)}"
                )
        elif self.model is not None or self.hub is not None:
            key = "hub" if self.model is None else "model"
            raise ValueError(
                f"prerelax.{key}: only the backend matgl has one; prerelax.backend is {self.backend}"
            )
        if not self.backend.startswith("ase:"):
            for key in ("arguments", "known_elements", "theory"):
                if getattr(self, key):
                    raise ValueError(
                        f"prerelax.{key}: only backends ase:<module>.<Class> take it; prerelax.backend is {self.backend}"
                    )
        return self
