"""Writes what every later stage reads: one JSON file for each run, and for each stage its settings and its code."""

from collections.abc import Sequence
from pathlib import Path

from visage.config import (
    DOWNLOAD,
    AttributeNetworkConfig,
    DownloadConfig,
    EvaluateConfig,
    PreprocessConfig,
    ReferenceConfig,
    ReportConfig,
    RunConfig,
    RuntimeConfig,
    StageConfig,
)
from visage.errors import UserError
from visage.files import project_path, write_json
from visage.params.checking import check
from visage.params.code import stage_digests
from visage.params.images import download_config
from visage.params.sections import SCALES, Params, at_scale

STAGES = ("download", "preprocess", "attribute_network", "reference", "train", "evaluate", "report")
"""Those whose code `code/<stage>.json` describes."""


def write_configs(params: Params, runs: Sequence[RunConfig], folder: Path, root: Path) -> None:
    """Fill a folder with the configs of all stages and runs, and with the digests of the code of each stage.

    root: the project's root, which holds `src/visage` and `stages`.

    Raises:
        UserError: a value in params.yaml is wrong.
    """
    crop, sizes = params.preprocess.crop, tuple(params.preprocess.sizes)
    labels = tuple(f"{recipe}-{size}" for recipe in params.recipes for size in sizes)
    download = download_config(params)
    networks, evaluations = {}, {}
    for scale in SCALES:  # what is wrong at the other one is better known before that one is asked for
        values = at_scale(params.evaluate, scale) | {"seed": params.seed}
        evaluations[scale] = check(EvaluateConfig, values, "params.yaml: evaluate")
        values = at_scale(params.attribute_network, scale) | {"sizes": sizes, "seed": params.seed}
        networks[scale] = check(AttributeNetworkConfig, values, "params.yaml: attribute_network")
    evaluate = evaluations[params.scale]
    _check_weights(evaluate.inception)
    configs: tuple[StageConfig, ...] = (
        download,
        PreprocessConfig(
            sizes=sizes,
            crop=(crop.left, crop.top, crop.right, crop.bottom),
            filter=params.preprocess.filter,
            max_bad_share=params.preprocess.max_bad_share,
            limit=params.data.limit,
            labels=labels,
        ),
        networks[params.scale],
        ReferenceConfig(sizes=sizes, labels=labels),
        evaluate,
        check(RuntimeConfig, params.runtime, "params.yaml: runtime"),
        ReportConfig(runs=tuple(run.name for run in runs)),
    )
    for config in configs:
        config.save(folder)
    for run in runs:
        run.save(folder)
    by_name = _loaded_by_name(download)
    for stage in STAGES:
        loaded = by_name if stage in ("download", "preprocess") else ()
        digests = stage_digests(root / "stages" / f"{stage}.py", root / "src", loaded)
        write_json(folder / "code" / f"{stage}.json", digests)


def _check_weights(inception: str | None) -> None:
    """Refuse a file that is not there, before anything is trained."""
    if inception is None or inception == DOWNLOAD:
        return
    path = project_path(inception)
    if not path.is_file() or path.stat().st_size == 0:
        raise UserError(
            f"params.yaml: evaluate.inception: {inception!r} is {'an empty' if path.is_file() else 'no'} file: "
            f"name the weights of Inception, say {DOWNLOAD}, or leave it empty"
        )


def _loaded_by_name(download: DownloadConfig) -> list[str]:
    """The modules of the sources of images, which no stage imports by a statement."""
    return [f"visage.data.sources.{download.source}", *(f"visage.data.ood.{images.source}" for images in download.ood)]
