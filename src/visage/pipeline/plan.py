"""Which stage runs next."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

UNKNOWN_SECONDS = 60.0
"""A guess, for a stage of which nobody knows how long it takes."""


@dataclass
class Plan:
    """The stages still to run.

    needs: stage -> the stages that it needs; those that are not among its keys count as done.
    seconds: how long stages take, as far as that is known.
    """

    needs: Mapping[str, Set[str]]
    seconds: Mapping[str, float]
    started: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    measured: list[tuple[float, float]] = field(default_factory=list)

    def ready(self, slots: int = 1) -> list[str]:
        """The stages that can start now, the most urgent first; slots: how many run at once.

        What is nearest to the end comes first, so that a trained model is measured before the next one is trained.
        Among equals: until the first one of the last kind has begun, the one that takes the least time, so that there
        is soon something to look at; then the one that takes longest together with what waits for it. With
        several slots, once fewer than twice as many stages that others wait for have yet to start, that alone counts,
        so that what is short is left for the end, and no slot stays idle for long.
        """
        found = [
            stage
            for stage, needed in self.needs.items()
            if stage not in self.started and not (needed & self.needs.keys()) - self.done
        ]
        if not self.deepest & self.started:
            return sorted(found, key=lambda stage: (-self.depth[stage], self.expected(stage)))
        needed = [stage for stage in self.needs if self.readers[stage] and stage not in self.started]
        if slots > 1 and len(needed) < 2 * slots:
            return sorted(found, key=lambda stage: -self.chain[stage])
        return sorted(found, key=lambda stage: (-self.depth[stage], -self.chain[stage]))

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Stage -> the stages that need it."""
        return {stage: [reader for reader, needed in self.needs.items() if stage in needed] for stage in self.needs}

    @cached_property
    def chain(self) -> dict[str, float]:
        """Stage -> the seconds from its start to the end of the last one that needs it, be it through others."""
        found: dict[str, float] = {}
        for stage in sorted(self.needs, key=lambda stage: -self.depth[stage]):
            found[stage] = self.expected(stage) + max((found[reader] for reader in self.readers[stage]), default=0.0)
        return found

    @cached_property
    def depth(self) -> dict[str, int]:
        """Stage -> the length of the longest chain of stages that it needs."""
        found: dict[str, int] = {}

        def depth(stage: str) -> int:
            if stage not in found:
                found[stage] = 1 + max((depth(needed) for needed in self.needs[stage] & self.needs.keys()), default=0)
            return found[stage]

        for stage in self.needs:
            depth(stage)
        return found

    def expected(self, stage: str) -> float:
        """The seconds that a stage probably takes."""
        return self.seconds.get(stage, UNKNOWN_SECONDS)

    def blocked(self) -> list[str]:
        """The stages that cannot run because one that they need, be it through others, has failed."""
        found: set[str] = set()
        for stage in sorted(self.needs, key=lambda stage: self.depth[stage]):
            if self.needs[stage] & (self.failed | found):
                found.add(stage)
        return [stage for stage in self.needs if stage in found]

    @property
    def deepest(self) -> set[str]:
        """The stages with the longest chains before them."""
        return {stage for stage, depth in self.depth.items() if depth == max(self.depth.values())}

    def took(self, stage: str, seconds: float) -> None:
        """Remember how long a stage took, beside what was expected."""
        if stage in self.seconds:
            self.measured.append((self.seconds[stage], seconds))

    def left(self, running: Mapping[str, float]) -> float:
        """The seconds of work that are left, one stage after the other; running: stage -> seconds so far.

        Expected times are stretched by what the finished stages took in comparison.
        """
        stretch = (
            sum(took for _, took in self.measured) / sum(said for said, _ in self.measured) if self.measured else 1
        )
        waiting = [stage for stage in self.needs if stage not in self.started]
        work = sum(self.expected(stage) for stage in waiting) * stretch
        return work + sum(max(self.expected(stage) * stretch - seconds, 0) for stage, seconds in running.items())
