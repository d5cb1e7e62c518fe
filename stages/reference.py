"""data/processed and data/attribute_network -> data/reference."""

from visage.measures import ood, probes, sample_quality
from visage.reference import derived_sets

print(ood, probes, sample_quality, derived_sets)
