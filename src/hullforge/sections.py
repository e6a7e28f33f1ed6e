"""What all typed inputs of users share: strict sections, and one line per mistake in them.

Comes in: a mapping and the model that it should be. Goes out: the model, or a `ConfigError` that names each key, what
was found and what is allowed. Knows no section of its own.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from hullforge.errors import ConfigError


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Give the section as canonical JSON, the form in which rules hand it to the command line."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _plain(path: Path) -> Path:
    if found := re.search(r"[{}\x00-\x1f\x7f]", str(path)):
        raise ValueError(
            f"the path holds {found[0]!r}; braces mean wildcards to Snakemake, and lines end there"
        )
    if str(path).startswith("-"):
        raise ValueError("the path begins with '-', as options do; write ./ before it")
    return path


#: A path that Snakemake and the rules' commands take as it is: no braces, no control characters, no leading dash.
PlainPath = Annotated[Path, AfterValidator(_plain)]

AnySection = TypeVar("AnySection", bound=Section)


def validated(model: type[AnySection], data: dict[str, Any], where: str) -> AnySection:
    """Validate `data` as `model`; raises `ConfigError` with one line per offending key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [f"{where}: {_explain(model, problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    """One sentence about one problem: the key, what was found, what is allowed."""
    key = ".".join(str(part) for part in problem["loc"]) or "(whole)"
    if problem["type"] == "extra_forbidden":
        allowed = _keys_at(model, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"unknown key '{key}'{hint} Allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if isinstance(problem["input"], dict) else f" (found {problem['input']!r})"
    return f"key '{key}': {message}{found}"


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the keys that the model allows at `path`."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return sorted(model.model_fields)
