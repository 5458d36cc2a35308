"""The examples of the documentation."""

import json

import pytest

from att.api import schemas
from att.api.openapi.examples import _EXAMPLES, example_of
from att.http.schemas import PageOut


def shapes():
    """Every shape of the API that is not made of others."""
    bases = (schemas.RequestModel, schemas.ResponseModel)
    found = {value for value in vars(schemas).values() if isinstance(value, type) and issubclass(value, bases)}
    return {shape for shape in found - set(bases) if not shape.__pydantic_generic_metadata__["parameters"]}


def test_each_shape_has_one():
    assert shapes() | {schemas.MessageIn} == set(_EXAMPLES)


@pytest.mark.parametrize("shape", _EXAMPLES, ids=lambda shape: shape.__name__)
def test_it_fits(shape):
    """It is read as what it is an example of, and has members of that alone."""
    example = _EXAMPLES[shape]
    shape.model_validate_json(json.dumps(example))
    if shape is not schemas.MessageIn:
        assert set(example) <= set(shape.model_fields)
    if issubclass(shape, schemas.ResponseModel):
        assert set(example) == set(shape.model_fields)


def test_of_many():
    """Those of lists and pages are made of those of their items."""
    user, change = _EXAMPLES[schemas.UserOut], _EXAMPLES[schemas.NamedUserChangeIn]
    assert example_of(schemas.UserChangesIn) == [change]
    assert example_of(schemas.ItemsOut[schemas.UserOut]) == {"items": [user]}
    assert example_of(PageOut[schemas.UserOut]) == {"items": [user], "next": None}
