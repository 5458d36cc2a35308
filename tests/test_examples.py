"""The examples of the documentation."""

import json

import pytest

from att import payloads
from att.examples import EXAMPLES, example_of


def shapes():
    """Every shape of the API that is not made of others."""
    bases = (payloads.Request, payloads.Answer)
    found = {value for value in vars(payloads).values() if isinstance(value, type) and issubclass(value, bases)}
    return {shape for shape in found - set(bases) if not shape.__pydantic_generic_metadata__["parameters"]}


def test_each_shape_has_one():
    assert shapes() | {payloads.Message} == set(EXAMPLES)


@pytest.mark.parametrize("shape", EXAMPLES, ids=lambda shape: shape.__name__)
def test_it_fits(shape):
    """It is read as what it is an example of, and has members of that alone."""
    example = EXAMPLES[shape]
    shape.model_validate_json(json.dumps(example))
    if shape is not payloads.Message:
        assert set(example) <= set(shape.model_fields)
    if issubclass(shape, payloads.Answer):
        assert set(example) == set(shape.model_fields)


def test_of_many():
    """Those of lists and pages are made of those of their items."""
    user, change = EXAMPLES[payloads.User], EXAMPLES[payloads.NamedUserChange]
    assert example_of(payloads.UserChanges) == [change]
    assert example_of(payloads.Items[payloads.User]) == {"items": [user]}
    assert example_of(payloads.Page[payloads.User]) == {"items": [user], "next": None}
