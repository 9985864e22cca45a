"""From a quota search's Pareto front to the alternative configurations an instance may be placed in."""

from __future__ import annotations

from dilu_core import _checks as check
from dilu_core.instances import Configuration
from dilu_core.performance import MemoryModel
from dilu_core.quota import QuotaConfig, QuotaSearchResult


def alternative_configurations(
    found: QuotaSearchResult, memory: MemoryModel, *, chosen: QuotaConfig | None = None, most: int = 3
) -> tuple[Configuration, ...]:
    """The other points of the Pareto front that serve at least as much as `chosen`, for `Instance.alternatives`.

    `chosen` (by default the search's best) is the instance's own configuration. An alternative has no less throughput,
    needs less of something (request, limit or memory at its batch) than the chosen one and than every alternative
    before it, and they come by ascending request, at most `most`. Where memory is scarce, a smaller batch at a greater
    request may fit a GPU that the chosen configuration does not. Raises `InvalidArgumentError` for arguments that are
    not what they should be.
    """
    if not isinstance(found, QuotaSearchResult):
        check.fail("found", f"is {found!r:.80}; expected a QuotaSearchResult.")
    if not isinstance(memory, MemoryModel):
        check.fail("memory", f"is {memory!r:.80}; expected a MemoryModel, such as MemoryModel(base_mib=4096).")
    own = found.best if chosen is None else chosen
    if own is not None and not isinstance(own, QuotaConfig):
        check.fail("chosen", f"is {own!r:.80}; expected a QuotaConfig or None.")
    count = check.integer("most", most, at_least=0)
    if own is None:
        return ()
    kept = [_configuration(own, memory)]
    for config in found.pareto:
        other = _configuration(config, memory)
        if config.throughput_rps >= own.throughput_rps and all(_needs_less(other, earlier) for earlier in kept):
            kept.append(other)
    return tuple(kept[1 : count + 1])


def _configuration(config: QuotaConfig, memory: MemoryModel) -> Configuration:
    return Configuration(config.request_milli, config.limit_milli, memory.memory_mib(config.batch))


def _needs_less(one: Configuration, other: Configuration) -> bool:
    """Whether `one` needs less than `other` of at least one resource."""
    pairs = zip(_demand(one), _demand(other), strict=True)
    return any(a < b for a, b in pairs)


def _demand(configuration: Configuration) -> tuple[int, int, int]:
    return configuration.request_milli, configuration.limit_milli, sum(configuration.memory_per_gpu_mib(1))
