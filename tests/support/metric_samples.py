"""Samples of a metrics page."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text):
    """Each sample by its name and labels, and the families by their name."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {}
    for family in families.values():
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found, families
