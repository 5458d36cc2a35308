"""Samples of a metrics page."""

from prometheus_client.parser import text_string_to_metric_families


def counts(collector):
    """Return the counts of a counter or histogram, by the values of its labels."""
    [family] = collector.collect()
    return {
        tuple(sample.labels.values()): sample.value
        for sample in family.samples
        if sample.name in (f"{family.name}_total", f"{family.name}_count")
    }


def total(collector):
    """Return the value of a counter without labels, or the sum of a histogram."""
    [family] = collector.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith(("_total", "_sum")))


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
