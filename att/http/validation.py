"""Explain invalid input to people."""

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from att.errors import FieldError, InvalidInput

FAULTS_SHOWN = 100
MORE_FAULTS = FieldError("body", "has more faults")

_WORDING = re.compile(r"^\w+ should ")  # pydantic: "Input should be a valid list", "String should have at most …"


def explain(error: ValidationError) -> InvalidInput:
    """Return an error with every fault and the path of its field; input is not repeated.

    Of very many faults only the first are listed, so that the response is not larger than the request.
    """
    faults = error.errors(include_url=False, include_input=False)
    shown = [_explain_one(fault) for fault in faults[:FAULTS_SHOWN]]
    return InvalidInput([*shown, MORE_FAULTS] if len(faults) > len(shown) else shown)


def _explain_one(fault: ErrorDetails) -> FieldError:
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    context: dict[str, Any] = fault.get("ctx", {})
    if fault["type"] == "value_error":
        return FieldError(field, str(context["error"]))
    if fault["type"] == "extra_forbidden":
        return FieldError(field, "is not known")
    if fault["type"] == "missing":
        return FieldError(field, "is missing")
    if fault["type"] == "model_type":
        return FieldError(field, "must be a JSON object")
    return FieldError(field, _WORDING.sub("must ", fault["msg"]))
