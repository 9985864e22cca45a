"""A place chosen for an instance, the rule that chose it, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dilu_core.cluster import Configuration, Instance
from dilu_core.kernels.cpu.ledger import BESIDE_FRIEND, BESIDE_GANG, NEUTRAL
from dilu_core.mig import MigSlice
from dilu_core.solvers.placement.unchecked import unchecked


class Rule(StrEnum):
    """What decided where an instance goes."""

    BEST_FIT = "best-fit"
    SPLIT = "split"
    OPENED = "opened"
    GANG = "gang"
    GRADIENT = "fragmentation-gradient"
    HOST = "host"
    NEVER = "never"
    NOT_NOW = "not-now"


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows and memory for an instance, the rule that chose them, and how: GPUs opened, and what it is beside there."""

    gpus: tuple[int, ...]
    memory_mib: tuple[int, ...]
    rule: Rule
    opened: int = 0
    liked: int = NEUTRAL
    configuration: int = 0
    mig: tuple[MigSlice, ...] = ()

    @property
    def reason(self) -> str:
        """The choice in words."""
        return reason_of(self.rule, len(self.gpus), self.opened, self.liked, self.configuration)


def demands_of(instance: Instance) -> tuple[Instance | Configuration, ...]:
    """Its own configuration, which the instance has the fields of, and the alternatives."""
    return (instance, *instance.alternatives)


chosen = unchecked(Choice)
"""A `Choice` of all its fields."""


def reason_of(rule: Rule, gpus: int, opened: int, liked: int, configuration: int) -> str:
    """The words for a choice; those used before are at hand."""
    key = (rule, gpus, opened, liked, configuration)
    found = _REASONS.get(key)
    if found is None:
        found = _STEPS[rule].format(gpus=gpus, opened=opened)
        if rule is Rule.SPLIT and opened:
            found += f", {opened} of them opened"
        found += _LIKED[liked] + (f", in configuration {configuration}" if configuration else "")
        _REASONS[key] = found
    return found


_REASONS: dict[tuple[Rule, int, int, int, int], str] = {}
_STEPS = {
    Rule.BEST_FIT: "best fit among active GPUs",
    Rule.OPENED: "opened an empty GPU",
    Rule.SPLIT: "split over {gpus} GPUs of one node",
    Rule.GANG: "gang on one node, {opened} of {gpus} GPUs opened",
    Rule.GRADIENT: "least growth of the node's fragmentation, {opened} of {gpus} GPUs opened",
}
_LIKED = {
    NEUTRAL: "",
    BESIDE_GANG: ", beside a gang its function already slows down",
    BESIDE_FRIEND: ", beside a function of its affinity",
}
