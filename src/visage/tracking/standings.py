"""Which runs of a project are the best ones of their image size; MLflow's registry calls them by an alias."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from visage.config import RunConfig
from visage.files import Strict, read_json
from visage.results import Kind, Results, read


class Contest(NamedTuple):
    """An alias, the figure whose lowest value earns it, and the kinds of that figure that count."""

    alias: str
    metric: str
    kinds: tuple[Kind, ...]


CONTESTS = (
    Contest("best-fd", "fd_attr128", ("exact", "estimate")),
    Contest("best-bpd", "bits_per_dim", ("exact", "upper_bound")),  # what is guaranteed: an estimate may be too low
)


@dataclass(frozen=True, slots=True)
class Best(Strict):
    """The best run of one image size by one figure.

    run: its name; key: `RunConfig.key`, by which MLflow knows it.
    """

    size: int
    alias: str
    run: str
    key: str
    metric: str
    value: float


def best_runs(root: Path, names: Iterable[str]) -> list[Best]:
    """The best of the named runs whose results and data are here, for each size and contest.

    A run with a tripped wire takes no part: what copies training faces, or collapsed, can have the lowest figures.

    Raises:
        UserError: a config or the results of a run are damaged.
    """
    best: dict[tuple[int, str], Best] = {}
    for name in names:
        file = root / "runs" / name / "evaluate" / "results.json"
        config = RunConfig.load(name, root / "configs")
        card = root / "data" / "processed" / "train" / f"{config.label}.json"
        if not (file.is_file() and card.is_file()):
            continue
        results = read(file, Results)
        if any(wire.verdict == "tripped" for wire in results.tripwires):
            continue
        for contest in CONTESTS:
            record = results.find(contest.metric)
            if record is None or record.value is None or record.kind not in contest.kinds:
                continue
            place = config.size, contest.alias
            if place not in best or record.value < best[place].value:
                best[place] = Best(*place, name, config.key(read_json(card)), contest.metric, record.value)
    return [best[place] for place in sorted(best)]
