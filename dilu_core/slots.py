"""Slots on GPUs, and a placement: the slots of every placed instance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dilu_core import _checks as check
from dilu_core.mig import MigSlice

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """A place on one GPU: the `node`'s name, the `gpu`'s number in it (from 0), and the memory taken there in MiB.

    `configuration` is the number of the quota configuration the instance runs in (`Instance.configurations`), the same
    in all its slots. `mig` is the partition taken, on a GPU that is partitioned.
    """

    node: str
    gpu: int
    memory_mib: int
    configuration: int = 0
    mig: MigSlice | None = None

    def __post_init__(self) -> None:
        check.text("node", self.node)
        object.__setattr__(self, "gpu", check.integer("gpu", self.gpu, at_least=0))
        object.__setattr__(self, "memory_mib", check.integer("memory_mib", self.memory_mib, at_least=0))
        object.__setattr__(self, "configuration", check.integer("configuration", self.configuration, at_least=0))
        if self.mig is not None and not isinstance(self.mig, MigSlice):
            check.fail("mig", f"is {self.mig!r:.120}; expected a MigSlice or None.")

    def to_row(self) -> list[Any]:
        """A JSON-able list: node, GPU, memory in MiB, then configuration, profile and first slice where not default."""
        row: list[Any] = [self.node, self.gpu, self.memory_mib]
        if self.mig is not None:
            return [*row, self.configuration, self.mig.profile, self.mig.start]
        return [*row, self.configuration] if self.configuration else row

    @classmethod
    def from_row(cls, row: object, *, argument: str = "slot") -> Slot:
        """The slot `to_row` wrote; `InvalidArgumentError` names what of `argument` is wrong."""
        if not isinstance(row, list | tuple) or len(row) not in (3, 4, 6):
            check.fail(
                argument, f"is {row!r:.120}; expected [node, gpu, memory_mib] or with configuration and partition."
            )
        keys: tuple[str, ...] = ("node", "gpu", "memory_mib", "configuration")
        fields: dict[str, Any] = dict(zip(keys, row, strict=False))
        if len(row) == 6:
            fields["mig"] = check.build(
                f"{argument}.mig", {"profile": row[4], "start": row[5]}, MigSlice, required=("profile", "start")
            )
        return check.build(argument, fields, cls, required=keys[:3], optional=("configuration", "mig"))


class Placement(Mapping[str, tuple[Slot, ...]]):
    """Instance name -> its slots. An immutable mapping; two are equal when they hold the same slots for the same names.

    It knows nothing of demands or capacities: `verify_placement` holds it against a problem.
    """

    __slots__ = ("_gpus", "_slots")

    def __init__(self, slots: Mapping[str, Iterable[Slot]] | None = None) -> None:
        found: dict[str, tuple[Slot, ...]] = {}
        if slots is not None and not isinstance(slots, Mapping):
            check.fail("slots", f"is {slots!r:.120}; expected a mapping of instance names to slots.")
        for name, each in (slots or {}).items():
            check.text("slots", name)
            found[name] = check.instances_of(f"slots[{name!r}]", each, Slot)
            if not found[name]:
                check.fail(f"slots[{name!r}]", "is empty; leave instances that are not placed out.")
        self._slots = found
        self._gpus: dict[tuple[str, int], tuple[str, ...]] | None = None

    def slots(self, name: str) -> tuple[Slot, ...]:
        """The slots of the instance `name`; `InvalidArgumentError` where it is not placed."""
        if check.text("name", name) not in self._slots:
            check.fail("name", f"is {name!r}, which this placement does not hold ({len(self)} instances are placed).")
        return self._slots[name]

    def __getitem__(self, name: str) -> tuple[Slot, ...]:
        return self._slots[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __hash__(self) -> int:
        return hash(frozenset(self._slots.items()))

    def __repr__(self) -> str:
        return f"Placement({len(self)} instances on {self.gpus_used} GPUs)"

    @property
    def names(self) -> tuple[str, ...]:
        """The placed instances."""
        return tuple(self._slots)

    @property
    def by_gpu(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """(node, GPU) -> the instances on it, for every GPU that holds one."""
        if self._gpus is None:
            held: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
            for name, each in self._slots.items():
                for slot in each:
                    held[slot.node, slot.gpu].append(name)
            self._gpus = {gpu: tuple(names) for gpu, names in held.items()}
        return dict(self._gpus)

    @property
    def gpus_used(self) -> int:
        """GPUs that hold at least one instance."""
        return len(self.by_gpu)

    def restricted(self, names: Iterable[str]) -> Placement:
        """This placement with only those instances left that are among `names`."""
        kept = set(check.instances_of("names", names, str))
        return Placement({name: each for name, each in self._slots.items() if name in kept})

    def moved_from(self, other: Placement) -> tuple[str, ...]:
        """The instances both placements hold whose slots differ; the order of an instance's slots does not count."""
        if not isinstance(other, Placement):
            check.fail("other", f"is {other!r:.120}; expected a Placement.")
        return tuple(name for name in self if name in other and Counter(self[name]) != Counter(other[name]))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; a slot is the list that `Slot.to_row` gives."""
        slots = {name: [slot.to_row() for slot in each] for name, each in self._slots.items()}
        return {"version": _VERSION, "slots": slots}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """The placement `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        slots = check.item("placement", check.document("placement", data, version=_VERSION), "slots")
        if not isinstance(slots, Mapping):
            check.fail("placement.slots", f"is {slots!r:.120}; expected a mapping of instance names to slots.")
        return cls({name: _read_slots(f"placement.slots[{name!r}]", each) for name, each in slots.items()})

    def __reduce__(self) -> tuple[type[Placement], tuple[dict[str, tuple[Slot, ...]]]]:
        return Placement, (self._slots,)


def slots_by_name(argument: str, value: object) -> Mapping[str, tuple[Slot, ...]]:
    """`value` as slots by instance name: a `Placement`, or any mapping like one."""
    if isinstance(value, Placement):
        return value
    if not isinstance(value, Mapping):
        hint = " Pass its `placement`." if hasattr(value, "placement") else ""
        check.fail(argument, f"is {value!r:.120}; expected a Placement.{hint}")
    return {
        check.text(argument, name): check.instances_of(f"{argument}[{name!r}]", each, Slot)
        for name, each in value.items()
    }


def _read_slots(where: str, rows: object) -> tuple[Slot, ...]:
    if not isinstance(rows, list | tuple):
        check.fail(where, f"is {rows!r:.120}; expected a list of slots.")
    return tuple(Slot.from_row(row, argument=f"{where}[{i}]") for i, row in enumerate(rows))
