"""Ways in which a training is known to go wrong, each detected by a number and given a verdict of its own.

A tripped wire says that the model's figures describe a failed training, or broken arithmetic, rather than the
method. Limits are far from what a sound model shows: none is meant to rank models.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visage.measures.intervals import auroc
from visage.results import Tripwire

Name = Literal[
    "non_finite",
    "posterior_collapse",
    "codebook_collapse",
    "discriminator_saturation",
    "mode_collapse",
    "round_trip",
    "mirror",
]

ACTIVE_VARIANCE = 0.01
"""Variance of a posterior mean over images above which a latent unit is active (Burda et al. 2016, section 5.2). It is
between the two well separated modes of their histogram. The prior must be N(0, I)."""
LEAST_ACTIVE = 0.1
"""Share of active units; sound VAEs also leave some units of a generous latent space unused."""
LEAST_RATE = 1.0
"""Nats: with less, the code tells on average fewer than e = 2.7 images apart."""
LEAST_USED = 0.1
"""Perplexity relative to the number of codes: the others might as well not be there."""
SATURATED = 0.99
"""AUROC: of two normal distributions of equal spread, 5 mistakes in 100 images. A generator learns little from that."""
MOST_DUPLICATES = 0.2
"""Share of samples with a near-duplicate among the samples; a fair draw from the faces has next to none."""
LEAST_COVERAGE = 0.1
"""Coverage (Naeem et al. 2020, arXiv:2002.09797); as many fresh faces reach 0.97 with 5 neighbours."""
HALF_STEP = 0.5 / 255
"""Half of the distance of two 8-bit values, pixels in [0, 1]: beyond it an image comes back as another one."""

MOST_MIRRORED = 0.1
"""Distance from 1/2 of the AUROC of mirrored faces: which way a face looks is nothing that training could teach."""


class Reading(NamedTuple):
    """A number, and whether it is wrong: below, above, or at least at the limit."""

    value: float
    wrong: Literal["<", ">", ">="]
    limit: float
    text: str

    @property
    def crossed(self) -> bool:
        """Whether the value is wrong; one that is no finite number always is."""
        beyond = {"<": self.value < self.limit, ">": self.value > self.limit, ">=": self.value >= self.limit}
        return not math.isfinite(self.value) or beyond[self.wrong]


def undefined(name: Name, reason: str) -> Tripwire:
    """The wire of a model to which it does not apply, and why."""
    return Tripwire(name, "undefined", reason)


def judge(name: Name, readings: Sequence[Reading]) -> Tripwire:
    """Trip where any of the readings is wrong; the first such one, or else the first of all, gives value and limit."""
    crossed = [reading for reading in readings if reading.crossed]
    decisive = (crossed or readings)[0]
    return Tripwire(
        name=name,
        verdict="tripped" if crossed else "ok",
        text="; ".join(reading.text for reading in readings),
        value=float(decisive.value) if math.isfinite(decisive.value) else None,
        limit=decisive.limit,
    )


def non_finite(arrays: Mapping[str, NDArray[np.floating]]) -> Tripwire:
    """Trip where any value of the named arrays is NaN or infinite.

    A measure that may well be infinite (PSNR of equal images) has no place among them.
    """
    bad = {name: int((~np.isfinite(values)).sum()) for name, values in arrays.items()}
    total = sum(values.size for values in arrays.values())
    if not total:
        return undefined("non_finite", "there are no values")
    found = ", ".join(f"{count} in {name}" for name, count in bad.items() if count) or "none"
    return judge("non_finite", [Reading(sum(bad.values()), ">", 0, f"not finite, of {total} values: {found}")])


def posterior_collapse(means: NDArray[np.floating] | None, rate: float | None) -> Tripwire:
    """Trip where few latent units are active or the code carries next to nothing: the decoder ignores it.

    means: posterior means of (n, L) units for n images, prior N(0, I), None where there are none.
    rate: KL(q(z | x) || p(z)), mean over images, nats per image, None where there is none.
    """
    readings = []
    if means is not None and len(means) > 1 and means.shape[1]:
        active, units = active_units(means), means.shape[1]
        readings.append(Reading(active / units, "<", LEAST_ACTIVE, f"{active} of {units} latent units are active"))
    if rate is not None:
        readings.append(Reading(rate, "<", LEAST_RATE, f"rate {rate:.4g} nats"))
    if not readings:
        return undefined("posterior_collapse", "there are neither posterior means of two images nor a rate")
    return judge("posterior_collapse", readings)


def active_units(means: NDArray[np.floating]) -> int:
    """Latent units whose posterior mean (n, L) varies over the images (Burda et al. 2016, arXiv:1509.00519, 5.2)."""
    return int((means.var(0, dtype=np.float64) > ACTIVE_VARIANCE).sum())


def codebook_collapse(perplexity: float, codes: int) -> Tripwire:
    """Trip where few of the codes are used.

    perplexity: exp of the entropy, in nats, of how often each code is used, of at least as many draws as there are
        codes: n draws reach n at most.
    """
    text = f"perplexity {perplexity:.4g} of {codes} codes"
    return judge("codebook_collapse", [Reading(perplexity / codes, "<", LEAST_USED, text)])


def perplexity(uses: NDArray[np.integer]) -> float:
    """Exponential of the entropy, in nats, of how often each of K codes is used; uses: counts, (K,).

    K where all are used alike, 1 where only one is, 0 where none is.
    """
    used = uses[uses > 0] / max(1, uses.sum())
    return float(np.exp(-(used * np.log(used)).sum())) if len(used) else 0.0


def discriminator_saturation(faces: NDArray[np.floating], samples: NDArray[np.floating]) -> Tripwire:
    """Trip where the discriminator tells the generator's samples from faces nearly without a mistake.

    faces, samples: its scores of (n,) held-out faces and of (m,) samples, high for what looks generated.
    """
    if not len(faces) or not len(samples):
        return undefined("discriminator_saturation", "there are no scores of faces, or none of samples")
    known = not (np.isnan(faces).any() or np.isnan(samples).any())
    area = auroc(faces.astype(np.float64), samples.astype(np.float64)) if known else math.nan
    text = (
        f"the discriminator tells {len(samples)} samples from {len(faces)} held-out faces with an AUROC of {area:.3f}"
    )
    return judge("discriminator_saturation", [Reading(area, ">=", SATURATED, text)])


def mode_collapse(near_duplicates: float | None, coverage: float | None) -> Tripwire:
    """Trip where many samples are nearly the same, or few faces have any sample near them.

    near_duplicates: share of the samples that have a near-duplicate among the others, in [0, 1].
    coverage: share of the faces with a sample inside their neighbourhood, in [0, 1].
    """
    readings = []
    if near_duplicates is not None:
        text = f"{near_duplicates:.1%} of the samples have a near-duplicate"
        readings.append(Reading(near_duplicates, ">", MOST_DUPLICATES, text))
    if coverage is not None:
        readings.append(Reading(coverage, "<", LEAST_COVERAGE, f"coverage {coverage:.3g}"))
    if not readings:
        return undefined("mode_collapse", "there are neither near-duplicates nor a coverage to look at")
    return judge("mode_collapse", readings)


def round_trip(error: float) -> Tripwire:
    """Trip where a flow does not come back to where it started.

    error: max |x - f^-1(f(x))| over pixels and images, pixels in [0, 1].
    """
    return judge("round_trip", [Reading(error, ">", HALF_STEP, f"comes back within {error:.2g}, pixels in [0, 1]")])


def mirror(interval: tuple[float, float]) -> Tripwire:
    """Trip where mirrored faces are told from the faces themselves, although training mirrored half of all images.

    interval: of the AUROC; the end that is nearer to 1/2 decides.
    """
    low, high = interval
    distance = max(low - 0.5, 0.5 - high, 0.0)
    text = f"the AUROC of mirrored faces lies between {low:.3f} and {high:.3f}, at least {distance:.2g} from .5"
    return judge("mirror", [Reading(distance, ">", MOST_MIRRORED, text)])
