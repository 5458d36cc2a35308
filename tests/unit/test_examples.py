"""The examples of the documentation."""

import json

import pytest

from att.api import schemas
from att.api.openapi.examples import example_of
from att.api.routes import EXAMPLES
from att.http.schemas import PageOut


def shapes():
    """Return every shape of the API that is not made of others."""
    bases = (schemas.RequestModel, schemas.ResponseModel)
    found = {value for value in vars(schemas).values() if isinstance(value, type) and issubclass(value, bases)}
    return {shape for shape in found - set(bases) if not shape.__pydantic_generic_metadata__["parameters"]}


def test_each_shape_has_one():
    assert shapes() | {schemas.MessageIn} == set(EXAMPLES)


@pytest.mark.parametrize("shape", EXAMPLES, ids=lambda shape: shape.__name__)
def test_valid(shape):
    """An example is a valid value of its shape and has no other fields."""
    example = EXAMPLES[shape]
    shape.model_validate_json(json.dumps(example))
    if shape is not schemas.MessageIn:
        assert set(example) <= set(shape.model_fields)
    if issubclass(shape, schemas.ResponseModel):
        assert set(example) == set(shape.model_fields)


def test_of_many():
    """The example of a list or a page is made of its item's."""
    user, change = EXAMPLES[schemas.UserOut], EXAMPLES[schemas.NamedUserChangeIn]
    assert example_of(schemas.UserChangesIn) == [change]
    assert example_of(schemas.ItemsOut[schemas.UserOut]) == {"items": [user]}
    assert example_of(PageOut[schemas.UserOut]) == {"items": [user], "next": None}
