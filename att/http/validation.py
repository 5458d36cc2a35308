"""What is wrong with an input, in words for people."""

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from att.errors import FieldError, InvalidInput

FAULTS_TOLD = 100

_WORDING = re.compile(r"^\w+ should ")  # of pydantic: "Input should be a valid list", "String should have at most …"


def explain(error: ValidationError) -> InvalidInput:
    """Every fault at once, each with the path of its member; what was sent is not repeated.

    Of very many the first are told, and how many more there are: the answer must not outgrow the question.
    """
    faults = error.errors(include_url=False, include_input=False)
    told = [_explain_one(fault) for fault in faults[:FAULTS_TOLD]]
    untold = len(faults) - len(told)
    return InvalidInput([*told, FieldError("body", f"has {untold} more faults")] if untold else told)


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
