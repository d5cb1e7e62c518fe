"""Everything that is measured about one model, on images and with noise that are the same for all models."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from visage.attribute_network import load_attribute_network
from visage.config import EvaluateConfig, RunConfig
from visage.data.arrays import load_card
from visage.evaluation.checks import check
from visage.evaluation.codes import judge_codes
from visage.evaluation.conditioning import judge_conditioning
from visage.evaluation.failures import measure_enrichment, rankings, show_galleries
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.ood import record_ood, score_sets
from visage.evaluation.per_image import measure_faces, record_faces
from visage.evaluation.pictures import PictureFolder, draw_pictures, walk
from visage.evaluation.samples import Drawn, draw_samples, judge_samples
from visage.inference.flops import flops_of
from visage.maths.streams import torch_generator
from visage.measures.recorder import Recorder
from visage.models.base import CAPABILITIES, GenerativeModel, Samples, reason
from visage.reference.images import choose_images
from visage.reference.load import load_reference
from visage.results import TEST, VERSION, EvaluationCost, PerImage, Results, write
from visage.training.devices import footprint
from visage.weights import weights_hash


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found, and what it took."""

    results: Results
    cost: EvaluationCost


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    run: RunConfig,
    settings: EvaluateConfig,
    data: Path,
    out: Path,
    device: torch.device,
    progress: bool = True,
) -> Evaluation:
    """Measure what the model can do; write results.json, scores.npz and the pictures to `out`, a folder that exists.

    model: on the device, in float32. It is left in eval mode.
    data: the project's `data`, with `processed`, `attribute_network` and `reference`.

    Raises:
        UserError: an array, the attribute network or the reference is missing.
    """
    started = time.perf_counter()
    evaluated = EvaluatedModel(model.eval(), settings, device, run.size)
    reference = load_reference(data / "reference", run.size)
    images = choose_images(run.size, settings, load_card(data / "processed"), data / "processed")
    network = load_attribute_network(data / "attribute_network", run.size, device)
    recorder = Recorder(settings.bootstrap, settings.seed, images.identity)
    pictures = PictureFolder(out)
    dims = images.test[0].size
    with tqdm(total=6, desc=run.name, disable=not progress) as bar:

        def begin(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        begin("faces")
        faces = measure_faces(evaluated, images)
        record_faces(recorder, evaluated, faces, dims)
        begin("scores of all images")
        found = score_sets(evaluated, images, reference, faces)
        record_ood(recorder, evaluated, images, reference.about.sets, found)
        begin("samples")
        drawn = draw_samples(evaluated, images)
        judged = judge_samples(recorder, pictures, evaluated, images, reference, network, drawn)
        judge_conditioning(recorder, evaluated, images, network, drawn)
        begin("codes")
        walked = walk(evaluated, images.test)
        judge_codes(recorder, evaluated, images, found, network, walked)
        begin("pictures")
        draw_pictures(pictures, evaluated, images, reference.about.headline, found, walked)
        ranked = rankings(faces, found)
        galleries = show_galleries(pictures, evaluated, images, ranked)
        begin("checks")
        results = Results(
            version=VERSION,
            run=run.name,
            data_hash=reference.about.data_hash,
            model_hash=weights_hash(model),
            default_score=found.default,
            headline=reference.about.headline,
            records=recorder.records,
            tripwires=check(evaluated, images, faces, found, drawn, judged, recorder.records, mirrored=run.train.flip),
            galleries=galleries,
            enrichment=measure_enrichment(recorder, images, reference, ranked),
            pictures=pictures.pictures,
            abilities={kind.__name__: reason(model, kind) for kind in CAPABILITIES},
        )
    write(out / "results.json", results)
    rows = {TEST: images.rows, **images.external_rows}
    PerImage(rows, images.identity, found.scores, faces.values(dims)).save(out / "scores.npz")
    asked = len(images.test) + sum(len(some) for some in images.external.values())
    return Evaluation(results, _cost(evaluated, drawn, asked, started))


def _cost(evaluated: EvaluatedModel, drawn: Drawn | None, images: int, started: float) -> EvaluationCost:
    """What the evaluation took, and what a sample takes; images: test faces and external ones."""
    model, samples_per_second, sample_gflop = evaluated.model, None, None
    if drawn and isinstance(model, Samples):
        samples_per_second = float(f"{len(drawn.images) / drawn.seconds:.4g}")
        operations = flops_of(lambda: model.sample(1, torch_generator(evaluated.settings.seed, "warm-up")))
        sample_gflop = float(f"{operations / 1e9:.4g}")
    seconds = time.perf_counter() - started
    return EvaluationCost(
        seconds=round(seconds, 2),
        images_per_second=round(images / seconds, 1),
        footprint=footprint(evaluated.device, "fp32"),
        samples_per_second=samples_per_second,
        sample_gflop=sample_gflop,
    )
