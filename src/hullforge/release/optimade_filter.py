"""OPTIMADE filters as SQL: what a client asks, as a condition with parameters.

Comes in: the text of a filter. Goes out: a condition for DuckDB whose column names come from a fixed list and whose
values are all parameters, never text in the statement. What a column's type can't answer is the client's error
(`BadRequest`, 400) or not implemented (501). Needs the extra `serve`; reads and changes nothing.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from lark import Lark, Tree, v_args
from lark.exceptions import LarkError
from optimade.exceptions import BadRequest
from optimade.filterparser.lark_parser import AVAILABLE_PARSERS
from optimade.filtertransformers.mongo import MongoTransformer

Condition = tuple[str, list[Any]]

_COMPARISONS = {"$eq": "=", "$ne": "<>", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_TEXTS = {"#contains": "contains", "#starts": "starts_with", "#ends": "ends_with"}
#: What matches no row: comparisons with a value that no row has.
_NOTHING: Condition = ("FALSE", [])


class Kind(Enum):
    """What a column holds, as far as filters tell apart; OPAQUE can be shown and not be asked for."""

    TEXT = "string"
    NUMBER = "number"
    TRUTH = "boolean"
    TIME = "timestamp"
    TEXTS = "list of strings"
    NUMBERS = "list of numbers"
    OPAQUE = "list of lists"

    @property
    def is_list(self) -> bool:
        """Whether HAS and LENGTH mean something."""
        return self in (Kind.TEXTS, Kind.NUMBERS)


class Name(str):
    """Name of a property in a filter, told apart from a string that is compared with."""

    __slots__ = ()


class Parser:
    """The standard's grammar, with TRUE and FALSE kept: upstream's own parser drops which of the two was written.

    Unlike upstream's it holds no state, so that threads may share it.
    """

    def __init__(self) -> None:
        versions = [version for version in AVAILABLE_PARSERS if "default" in AVAILABLE_PARSERS[version]]
        grammar = AVAILABLE_PARSERS[max(versions)]["default"].read_text()
        self._lark = Lark(grammar.replace("\nbool:", "\n!bool:"), maybe_placeholders=False)

    def parse(self, filter_: str) -> Tree[Any]:
        """Give the tree of a filter. Raises `BadRequest` where it is not one."""
        try:
            return self._lark.parse(filter_)
        except (LarkError, RecursionError) as error:
            raise BadRequest(detail=f"{filter_!r} is not an OPTIMADE filter: {error}") from error


class Transformer(MongoTransformer):
    """The filter's tree as nested dicts, with the operators named here instead of MongoDB's workarounds."""

    def property(self, args: list[Any]) -> Any:
        """Mark the names of properties."""
        return Name(super().property(args))

    def postprocess(self, query: Any) -> Any:
        """Leave the dicts as they are: lengths, unknowns, HAS ONLY and dates have SQL of their own."""
        return query

    @v_args(inline=True)
    def string(self, string: str) -> str:
        """Take off the quotes, and the backslashes before quotes and backslashes."""
        return string[1:-1].replace('\\"', '"').replace("\\\\", "\\")

    @v_args(inline=True)
    def bool(self, value: str) -> Any:
        """Tell TRUE from FALSE."""
        return str(value) == "TRUE"

    def fuzzy_string_op_rhs(self, arg: list[Any]) -> dict[str, Any]:
        """CONTAINS, STARTS and ENDS with the text as it is, not as a regular expression."""
        return {f"#{str(arg[0]).lower()}": arg[-1]}


def condition(query: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Condition:
    """Give the condition of a transformed filter on a table with the columns `kinds`, and its parameters."""
    parts: list[Condition] = []
    for name, asked in (query or {}).items():
        if name in ("$and", "$or"):
            inner = [condition(part, kinds) for part in asked]
            joined = f" {name[1:].upper()} ".join(f"({text})" for text, _ in inner)
            parts.append((joined, [value for _, values in inner for value in values]))
            continue
        operators = asked if isinstance(asked, Mapping) else {"$eq": asked}
        parts += [_comparison(name, operator, value, kinds) for operator, value in operators.items()]
    if not parts:
        return "TRUE", []
    return " AND ".join(f"({text})" for text, _ in parts), [value for _, values in parts for value in values]


def _comparison(name: str, operator: str, value: Any, kinds: Mapping[str, Kind]) -> Condition:
    """Give the condition of one operator on one property; nulls match nothing but IS UNKNOWN."""
    if operator == "$not":
        (inner, asked), *_ = value.items()
        text, values = _comparison(name, inner, asked, kinds)
        return f"NOT ({text})", values
    if "." in name:
        raise NotImplementedError(f"filters on nested properties ({name}) are not supported")
    if name not in kinds:  # a property of the standard that no row has, or another provider's
        return ("TRUE", []) if operator == "#known" and not value else _NOTHING
    column, kind = f'"{name}"', kinds[name]
    if operator == "#known":
        return f"{column} IS {'NOT ' if value else ''}NULL", []
    if operator == "$ne" and value is None:
        return f"{column} IS NOT NULL", []
    if kind is Kind.OPAQUE:
        raise NotImplementedError(f"filters on {name} are not supported")
    if operator == "$size":
        return _length(name, column, value, kind)
    if operator in ("$in", "$nin", "$all", "#only"):
        return _members(name, column, operator, value, kind)
    if kind.is_list:
        raise BadRequest(detail=f"{name} is a {kind.value}; ask for it with HAS or LENGTH")
    if operator in _TEXTS:
        if kind is not Kind.TEXT or not isinstance(value, str):
            raise BadRequest(detail=f"{name} is a {kind.value}; CONTAINS, STARTS and ENDS are for strings")
        return f"{_TEXTS[operator]}({column}, ?)", [value]
    if operator not in _COMPARISONS:
        raise NotImplementedError(f"the operator {operator} on {name} is not supported")
    return f"{column} {_COMPARISONS[operator]} ?", [_value(name, value, kind)]


def _length(name: str, column: str, value: Any, kind: Kind) -> Condition:
    if not kind.is_list:
        raise BadRequest(detail=f"{name} is a {kind.value}; LENGTH is for lists")
    operator, length = next(iter(value.items())) if isinstance(value, Mapping) else ("$eq", value)
    return f"len({column}) {_COMPARISONS[operator]} ?", [_value(name, length, Kind.NUMBER)]


def _members(name: str, column: str, operator: str, values: list[Any], kind: Kind) -> Condition:
    if not kind.is_list:
        raise BadRequest(detail=f"{name} is a {kind.value}; HAS is for lists")
    element = Kind.TEXT if kind is Kind.TEXTS else Kind.NUMBER
    wanted = [_value(name, value, element) for value in values]
    # the cast gives numbers of any kind the type of the column's elements
    given = f"[{', '.join('?' * len(wanted))}]::{'VARCHAR' if element is Kind.TEXT else 'DOUBLE'}[]"
    own = column if element is Kind.TEXT else f"{column}::DOUBLE[]"
    return {
        "$in": f"list_has_any({own}, {given})",
        "$nin": f"NOT list_has_any({own}, {given})",
        "$all": f"list_has_all({own}, {given})",
        "#only": f"len({column}) > 0 AND list_has_all({given}, {own})",
    }[operator], wanted


def _value(name: str, value: Any, kind: Kind) -> Any:
    """Give the value as a parameter of the column's type; `BadRequest` where it is of another."""
    if isinstance(value, Name):
        raise NotImplementedError(f"comparing two properties ({name} and {value}) is not supported")
    truth, number = isinstance(value, bool), isinstance(value, int | float)
    if kind is Kind.TEXT and isinstance(value, str):
        return str(value)
    if kind is Kind.TRUTH and truth:
        return value
    if kind is Kind.NUMBER and number and not truth:
        return value if abs(value) < 2**63 else float(value)
    if kind is Kind.TIME and isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            raise BadRequest(detail=f"{name}: {value!r} is not a time like 2026-01-31T12:00:00Z") from None
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).replace(tzinfo=None)
    raise BadRequest(detail=f"{name} is a {kind.value}; it can't be compared with {value!r}")
