"""The protocol of every number on the page, as data that a dialog shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from visage.report.columns import BY_KEY
from visage.report.entries import Entry, Pooled
from visage.report.load import Record, Run
from visage.report.ood import Images
from visage.report.table import Verdict
from visage.report.wording import KINDS


def numbers(
    shown: Sequence[Entry],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    computed: Mapping[str, Mapping[str, Pooled]],
    sets: Sequence[Images],
    stages: Mapping[str, str],
) -> dict[str, Any]:
    """What the page's script reads.

    verdicts: column -> label -> verdict. computed: label -> name -> a figure that no evaluation wrote.
    sets: of the boards. stages: run -> the command that measures it.

    Returns:
        "texts": strings that numbers refer to by position.
        "runs": run -> its seed and stage.
        "about": name of a figure -> title and meaning.
        "figures": label -> name -> per seed [run, value, low, high, n, and the positions of kind, unit, note, data
            hash, model hash].
        "verdicts": as given, in words.
    """
    texts: dict[str, int] = {}

    def position(text: str) -> int:
        return texts.setdefault(text, len(texts))

    def one(run: Run, record: Record) -> list[Any]:
        words = (KINDS[record.kind], record.unit, record.note, record.data_hash, record.model_hash)
        return [run.name, record.value, *(record.ci95 or (None, None)), record.n, *map(position, words)]

    def seeds(entry: Entry, pooled: Pooled) -> list[list[Any]]:
        return [one(run, record) for run, record in zip(entry.runs, pooled.records, strict=True)]

    figures = {
        entry.label: {name: seeds(entry, entry.pooled(name)) for name in dict.fromkeys([*entry.names(), *BY_KEY])}
        | {name: seeds(entry, pooled) for name, pooled in computed.get(entry.label, {}).items()}
        for entry in shown
    }
    names = dict.fromkeys(name for found in figures.values() for name in found)
    return {
        "figures": figures,
        "texts": list(texts),
        "runs": {run.name: [run.config.seed, stages[run.name]] for entry in shown for run in entry.runs},
        "about": {name: about(name, sets) for name in names},
        "verdicts": {
            column: {label: verdict.text for label, verdict in found.items()} for column, found in verdicts.items()
        },
    }


def about(name: str, sets: Sequence[Images]) -> tuple[str, str]:
    """Title and meaning of a figure."""
    if name in BY_KEY:
        return BY_KEY[name].title, BY_KEY[name].help
    titles = {images.key: images for images in sets}
    group, _, rest = name.partition("/")
    if group == "suite":
        key, _, score = rest.partition("/")
        images = titles.get(key, Images(key, key, ""))
        isolates = f" It isolates: {images.isolates}." if images.isolates else ""
        return (
            f"AUROC: {images.title}",
            f"{f'Score {score}' if score else 'The default score'} against this set.{isolates}",
        )
    if group in ("ood", "ood_baseline"):
        kind = "a statistic that needs no model" if group == "ood_baseline" else "a score of the model"
        return f"AUROC of {rest}", f"Faces against the other images by {kind}"
    return name.replace("_", " ").capitalize(), ""
