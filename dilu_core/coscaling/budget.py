"""A total GPU budget shared between functions by marginal value.

Function i with n instances serves in time, of a load of L requests per second, what its requests guarantee,
min(L, n c), and, as far as the burst share is there, min(L, n b), with c and b what one instance carries at its request
and while bursting. With t the trust in the burst (0..1) and w the function's weight, its value is

    u_i(n) = w ((1 - t) min(L, n c) + t min(L, n b))    weighted requests per second that do not violate

which is concave: every further instance saves no more than the one before. The next instance always goes where it saves
most per milli-GPU of its request. An instance that exists already counts `keep` times, because moving it costs a cold
start and equal claims should not swap places; u_i stays concave.

What that guarantees (Dantzig's bound for the knapsack problem, Operations Research 5(2), 1957, over chains of units
with falling densities): above the minima, the value given is at least the optimum less the value of the first instance
that was refused, and it is the optimum itself wherever all instances are of one size. `BudgetShares.bound` is the
optimum of the relaxation in which instances can be cut, so that the gap is at hand in every answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dilu_core import _checks as check
from dilu_core.coscaling.claims import Claim, meet
from dilu_core.units import capacity_milli


@dataclass(frozen=True)
class BudgetAsk:
    """What one function asks of the budget.

    `planned` instances exist (starting ones included), `wanted` its policy would have, `minimum` it must have.
    `request_milli` is what one instance reserves, over all its GPUs. `capacity_rps` is what it serves at that request,
    `burst_capacity_rps` while bursting. `load_rps` is the present load; `None` is not known, never zero: what exists is
    then taken to be busy. `weight` is the worth of one of its requests against those of the others.
    """

    name: str
    planned: int
    wanted: int
    minimum: int
    request_milli: int
    load_rps: float | None
    capacity_rps: float
    burst_capacity_rps: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        check.text("name", self.name)
        for name in ("planned", "wanted", "minimum"):
            object.__setattr__(self, name, check.integer(name, getattr(self, name), at_least=0))
        object.__setattr__(self, "request_milli", check.integer("request_milli", self.request_milli, at_least=1))
        if self.load_rps is not None:
            object.__setattr__(self, "load_rps", check.finite("load_rps", self.load_rps, at_least=0.0))
        for name in ("capacity_rps", "weight"):
            object.__setattr__(self, name, check.finite(name, getattr(self, name), above=0.0))
        burst = check.finite("burst_capacity_rps", self.burst_capacity_rps, at_least=self.capacity_rps)
        object.__setattr__(self, "burst_capacity_rps", burst)

    @property
    def most(self) -> int:
        """The instances it may get: what it wants, and never less than its minimum."""
        return max(self.wanted, self.minimum)


@dataclass(frozen=True)
class BudgetShare:
    """What one function gets: `instances`, what holds it back (`"budget"` or `None`), and a sentence for people."""

    instances: int
    clipped_by: str | None
    reason: str


@dataclass(frozen=True)
class BudgetShares:
    """The budget shared: by name, in the order of the asks.

    `used_milli` of `budget_milli` are given. `minima_fit` tells whether every minimum is kept; if not, nothing is given
    above a minimum. `value` of what is given above the minima, and `bound`, which no division can exceed, are in
    weighted requests per second, instances that exist counting `keep` times.
    """

    shares: Mapping[str, BudgetShare]
    budget_milli: int
    used_milli: int
    minima_fit: bool
    value: float
    bound: float

    def __getitem__(self, name: str) -> int:
        return self.shares[name].instances


def share_budget(
    asks: Iterable[BudgetAsk],
    budget_milli: int | None = None,
    *,
    budget_gpus: float | None = None,
    burst_trust: float = 0.5,
    keep: float = 1.25,
) -> BudgetShares:
    """Divide `budget_milli` (or `budget_gpus` whole GPUs) between `asks`: O(m log(n)^2) for n instances of m functions.

    First the minima. If those exceed the budget, they are cut by weighted max-min: the next instance goes to the
    function with the fewest milli-GPU per weight. Then, up to what is wanted, every instance goes where it is worth
    most per milli-GPU; between equals first to one that exists, then to the function with the smallest part of its
    wish, then by name - never by the order of `asks`. The budget counts reservations; whether they fit together on
    GPUs is the placement's question.

    Raises `InvalidArgumentError` for names that repeat, or unless exactly one of the two budgets is given.
    """
    asked = check.instances_of("asks", asks, BudgetAsk)
    check.distinct("asks", [ask.name for ask in asked])
    budget = whole_budget(budget_milli, budget_gpus)
    trust = check.finite("burst_trust", burst_trust, at_least=0.0, at_most=1.0)
    keep = check.finite("keep", keep, at_least=1.0)
    minima_fit = sum(ask.minimum * ask.request_milli for ask in asked) <= budget
    if not minima_fit:
        given = _cut_minima(asked, budget)
        value = bound = 0.0
    else:
        given, value, bound = _by_value(asked, budget, trust, keep)
    used = sum(count * ask.request_milli for ask, count in zip(asked, given, strict=True))
    shares = {ask.name: _share(ask, count, budget, minima_fit) for ask, count in zip(asked, given, strict=True)}
    return BudgetShares(shares, budget, used, minima_fit, value, bound)


def instance_value(ask: BudgetAsk, count: int, *, burst_trust: float = 0.5, keep: float = 1.25) -> float:
    """The worth of a function's `count`-th instance (from 1): weighted requests per second saved from violating."""
    return ask.weight * _saved_rps(ask, count, count, burst_trust) * (keep if count <= ask.planned else 1.0)


def _saved_rps(ask: BudgetAsk, first: int, last: int, burst_trust: float) -> float:
    """The requests per second that the instances from the `first` to the `last` save from violating."""
    load = ask.planned * ask.capacity_rps if ask.load_rps is None else ask.load_rps

    def more(rate_rps: float) -> float:
        return max(0.0, min(load - (first - 1) * rate_rps, (last - first + 1) * rate_rps))

    return (1.0 - burst_trust) * more(ask.capacity_rps) + burst_trust * more(ask.burst_capacity_rps)


def _worth(ask: BudgetAsk, count: int, trust: float, keep: float) -> float:
    """The sum of `instance_value` from the first instance above the minimum to the `count`-th."""
    existing = max(ask.minimum, min(count, ask.planned))
    saved = keep * _saved_rps(ask, ask.minimum + 1, existing, trust) + _saved_rps(ask, existing + 1, count, trust)
    return ask.weight * saved


def _by_value(asked: tuple[BudgetAsk, ...], budget: int, trust: float, keep: float) -> tuple[list[int], float, float]:
    """Instances, their value above the minima, and the bound on it."""

    def claim(ask: BudgetAsk) -> Claim:
        def key(count: int) -> tuple[float, bool, float, str, int]:
            worth = instance_value(ask, count, burst_trust=trust, keep=keep)
            return -worth / ask.request_milli, count > ask.planned, count / ask.most, ask.name, count

        return Claim(ask.minimum, ask.most, ask.request_milli, key)

    def value(counts: Iterable[int]) -> float:
        return sum(_worth(ask, count, trust, keep) for ask, count in zip(asked, counts, strict=True))

    left = budget - sum(ask.minimum * ask.request_milli for ask in asked)
    given, refused = meet([claim(ask) for ask in asked], left)
    worth = value(given)
    if refused is None:
        return given, worth, worth
    first = asked[refused.claim]
    cut = instance_value(first, refused.number, burst_trust=trust, keep=keep) * refused.left / first.request_milli
    return given, worth, max(worth, value(refused.have) + cut)


def _cut_minima(asked: tuple[BudgetAsk, ...], budget: int) -> list[int]:
    """Weighted max-min in whole instances, each function up to its minimum."""

    def claim(ask: BudgetAsk) -> Claim:
        def key(count: int) -> tuple[float, str, int]:
            return count * ask.request_milli / ask.weight, ask.name, count

        return Claim(0, ask.minimum, ask.request_milli, key)

    return meet([claim(ask) for ask in asked], budget)[0]


def _share(ask: BudgetAsk, instances: int, budget: int, minima_fit: bool) -> BudgetShare:
    if instances >= ask.most:
        above = f", its minimum above the {ask.wanted} wanted" if ask.minimum > ask.wanted else ""
        return BudgetShare(instances, None, f"all {instances} instances fit the budget{above}")
    if not minima_fit:
        detail = f"the minima exceed the budget of {budget} milli-GPU: {instances} of at least {ask.minimum} instances"
    else:
        detail = f"{instances} of {ask.wanted} wanted instances: the rest of {budget} milli-GPU is worth more elsewhere"
        if instances == ask.minimum:
            detail += " (this is the minimum)"
    return BudgetShare(instances, "budget", detail)


def whole_budget(budget_milli: int | None, budget_gpus: float | None) -> int:
    """The budget in milli-GPU, from whichever of the two was given."""
    if (budget_milli is None) == (budget_gpus is None):
        check.fail("budget_milli", "and budget_gpus: expected exactly one of the two.")
    if budget_gpus is not None:
        return capacity_milli(check.finite("budget_gpus", budget_gpus, at_least=0.0, at_most=1e12))
    return check.integer("budget_milli", budget_milli, at_least=0)
