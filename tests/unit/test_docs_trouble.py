"""The commands of docs/trouble.md are commands: hullforge's parse, their words exist, and no situation lacks one."""

import re
import shlex

import pytest

from conftest import ROOT
from hullforge import cli
from hullforge.config import Campaign
from hullforge.store.vocabulary import FailureReason

TEXT = (ROOT / "docs" / "trouble.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
OURS = [words for words in LINES if words[0] == "hullforge"]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_each_command_of_hullforge_parses(words):
    parsed = cli._parser().parse_args(words[1:])
    for reason in getattr(parsed, "reason", []):
        assert reason in {member.value for member in FailureReason}
    for pair in getattr(parsed, "limit", []):
        assert pair.partition("=")[0] in Campaign.model_fields["limits"].annotation.model_fields


def test_there_are_ten_situations_and_more():
    situations = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    assert len(situations) >= 10
    assert {words[0] for words in LINES} >= {"hullforge", "snakemake"}


def test_keys_that_are_named_exist():
    for name in re.findall(r"`limits\.(\w+)`", TEXT):
        assert name in Campaign.model_fields["limits"].annotation.model_fields
