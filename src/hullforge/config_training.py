"""The sections `training` and `potential_training` of a campaign: how the screener and a potential learn.

A part of `hullforge.config`, which is where all others take it from.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hullforge.sections import Section

Share = Annotated[float, Field(ge=0, le=1)]


class Pretraining(Section):
    """What a potential teaches the screener before DFT does. Its labels choose weights and never meet DFT's."""

    labels: int = Field(
        0, ge=0, description="random candidates that the potential of `prerelax` labels; 0: no pre-training"
    )
    epochs: int = Field(30, ge=1, description="epochs of training on the labels")


class Training(Section):
    """How the screener is trained."""

    preset: Literal["tiny", "small", "paper"] = Field(
        "tiny", description="size of the network; paper: the published width"
    )
    target: Literal["formation_energy_per_atom", "e_above_hull"] = Field(
        "formation_energy_per_atom",
        description="what the energy head learns; e_above_hull ages with every round's hull",
    )
    ensemble: int = Field(3, ge=1, description="members of the ensemble")
    epochs: int = Field(200, ge=1, description="most epochs of training")
    batch_size: int = Field(64, ge=1, description="records per optimisation step")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["one_cycle", "cyclical"] = Field(
        "one_cycle", description="one rise and fall of the learning rate, or CGAT's cycles of 130 epochs"
    )
    loss: Literal["l1", "nll"] = Field(
        "l1", description="l1: mean absolute error, the spread learned beside it; nll: Gaussian likelihood"
    )
    start: Literal["scratch", "last_round"] = Field(
        "scratch", description="random weights, or those of the round before (of the same preset)"
    )
    pretrain: Pretraining = Pretraining()
    validation_share: Share = Field(
        0.05, description="share of records that choose the epoch and calibrate the uncertainty, by a hash"
    )
    test_share: Share = Field(0.05, description="share of records that are only tested on, by a hash")
    calibration_folds: int = Field(
        0,
        ge=0,
        description="without validation records: so many more ensembles each leave out a part, and what they say of it"
        " calibrates the uncertainty; 0: not calibrated",
    )
    split_by: Literal["structure", "composition", "prototype"] = Field(
        "structure", description="what is hashed: records that agree in it lie on one side of the split"
    )
    max_target: float = Field(
        8.0, gt=0, description="records with a target of a larger magnitude are dropped as outliers, eV/atom"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto: a GPU if there is one"
    )

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.validation_share + self.test_share > 0.9:
            raise ValueError(
                f"training.validation_share and test_share leave {1 - self.validation_share - self.test_share:.2g}"
                " of the records to train on; at least 0.1 must be left"
            )
        if self.calibration_folds == 1:
            raise ValueError("training.calibration_folds: 1 leaves nothing to train on; give 0, or 2 or more")
        if self.calibration_folds and self.validation_share:
            raise ValueError(
                "training.calibration_folds and validation_share both calibrate the uncertainty; set one of them to 0"
            )
        return self


class PotentialTraining(Section):
    """How an interatomic potential is trained on the campaign's own relaxation paths, with matgl.

    Which frames it learns from, and which it never sees, is what `release.curation` says.
    """

    preset: Literal["tensornet-small", "tensornet", "m3gnet-small", "m3gnet"] = Field(
        "tensornet-small", description="architecture and size; without effect where a model is gone on from"
    )
    start: Literal["scratch", "last_round", "model"] = Field(
        "scratch",
        description="random weights; those of the round before (in the first: of `model`, or random); those of `model`",
    )
    model: Path | None = Field(None, description="matgl model folder that is fine-tuned")
    epochs: int = Field(100, ge=1, description="epochs of training")
    batch_size: int = Field(16, ge=1, description="frames per optimisation step")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    warm_share: float = Field(
        0.3, gt=0, le=1, description="factor on the peak learning rate where a model is gone on from"
    )
    energy_weight: float = Field(1.0, ge=0, description="weight of the energies, eV/atom, in the loss")
    force_weight: float = Field(1.0, ge=0, description="weight of the forces, eV/angstrom, in the loss")
    stress_weight: float = Field(0.1, ge=0, description="weight of the stresses, GPa, in the loss")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto: a GPU if there is one"
    )

    @model_validator(mode="after")
    def _a_model_to_start_from(self) -> Self:
        if self.start == "model" and self.model is None:
            raise ValueError(
                "potential_training.start: model needs potential_training.model, a matgl model folder"
            )
        if self.start == "scratch" and self.model is not None:
            raise ValueError(
                "potential_training.model is not used with start: scratch; set start to model or last_round"
            )
        return self
