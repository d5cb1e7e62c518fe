"""How far samples, and translated faces, have the attributes that were wanted."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from visage.attribute_network import TrainedAttributeNetwork
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.samples import Drawn
from visage.inference.batches import answers, embedded, to_pixels
from visage.measures.probes import faithfulness
from visage.measures.recorder import Recorder
from visage.models.base import GenerativeModel, SamplesGiven, Translates, can
from visage.reference.images import EvaluationImages

TRANSLATIONS = ("translation_success_a", "translation_success_b")


def judge_conditioning(
    recorder: Recorder,
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    network: TrainedAttributeNetwork | str,
    drawn: Drawn | None,
) -> None:
    """Record what the attribute network recognises in conditional samples and in translations, or why nothing is."""
    if drawn is None or drawn.wanted is None or drawn.why_not or isinstance(network, str):
        otherwise = network if isinstance(network, str) else drawn.why_not if drawn else "the model draws no samples"
        recorder.missing("attribute_auroc", evaluated.why_not(SamplesGiven, otherwise=otherwise))
    else:
        known = list(evaluated.model.attributes)
        names = [name for name in known if name in network.names]
        logits = _logits(network, evaluated, drawn.images)[:, [network.names.index(name) for name in names]]
        found = faithfulness(drawn.wanted[:, [known.index(name) for name in names]], logits)
        each = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, found.auroc, strict=True))
        note = f"the attribute network tells samples that were to have an attribute from others: {each}"
        recorder.figure("attribute_auroc", "estimate", found.macro, len(drawn.wanted), note=note)
    for i, metric in enumerate(TRANSLATIONS):
        _judge_translations(recorder, evaluated, images, network, i, metric)


def _judge_translations(
    recorder: Recorder,
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    network: TrainedAttributeNetwork | str,
    kind: int,
    metric: str,
) -> None:
    """Record how many faces of a kind, translated, the attribute network takes for faces of the other kind."""
    model = evaluated.model
    if not (isinstance(model, Translates) and can(model, Translates)) or isinstance(network, str):
        recorder.missing(metric, evaluated.why_not(Translates, otherwise=str(network)))
        return
    rows = np.flatnonzero(evaluated.group(images) == kind)
    some = images.test[rows]
    unknown = set(model.attributes) - set(network.names)
    if not len(some) or unknown:
        recorder.missing(metric, f"unknown to the network: {min(unknown)}" if unknown else "no test face of this kind")
        return
    translate = model.translate
    parts = answers(lambda x: to_pixels(translate(x, 1 - kind)), some, evaluated.batch_size, evaluated.device)
    translated = np.concatenate(list(parts))
    before, after = (expit(_logits(network, evaluated, x)) for x in (some, translated))
    wanted = [network.names.index(attribute) for attribute in model.attributes]
    taken = [_taken_for(model, y[:, wanted]) == 1 - kind for y in (before, after)]
    others = np.delete(np.abs(after - before), wanted, axis=1)
    note = (
        f"share of translated faces ({model.domains[kind]}) that the attribute network takes for "
        f"{model.domains[1 - kind]}; before translation {taken[0].mean():.2f}; probabilities of other attributes "
        f"moved by {others.mean():.3f}"
    )
    recorder.mean(metric, "estimate", taken[1].astype(np.float64), note, rows)


def _taken_for(model: GenerativeModel, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which kind of image the attributes make it, (n,), for probabilities (n, A) of the model's attributes."""
    group = model.groups(torch.from_numpy(probabilities > 0.5).float())
    assert group is not None  # a model that translates tells kinds of images apart
    found: NDArray[np.int64] = group.cpu().numpy()
    return found


def _logits(
    network: TrainedAttributeNetwork, evaluated: EvaluatedModel, images: NDArray[np.uint8]
) -> NDArray[np.float64]:
    return embedded(network.network, images, evaluated.batch_size, evaluated.device).astype(np.float64)
