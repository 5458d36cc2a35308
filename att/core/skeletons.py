"""Names that look alike: skeletons as in Unicode Technical Standard 39, section 4."""

import json
import re
import unicodedata
from importlib.resources import files

from att.core.names import fold

MOST = 256  # characters of a skeleton; compatibility characters may stand for many others

# Default_Ignorable_Code_Point, which Unicode does not change.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_SPACES = re.compile(r"\s+")


def _read_prototypes() -> dict[int, str]:
    """Return the prototype of each character that looks like others, by code point.

    The file of confusable-homoglyphs has each pair of Unicode's confusables.txt in both directions, in the order of
    that list. A character with a prototype has no other pair, and comes before its prototype if that has one only.
    """
    text = files("confusable_homoglyphs").joinpath("confusables.json").read_text("utf-8")
    pairs: dict[str, list[dict[str, str]]] = json.loads(text)
    prototypes: dict[int, str] = {}
    seen: set[str] = set()
    for character, similar in pairs.items():
        if len(similar) == 1 and character not in seen:
            prototype = similar[0]["c"]
            seen.add(prototype)
            # Text from right to left has marks around it in that list.
            prototypes[ord(character.strip("\u200e"))] = prototype.strip("\u200e")
    return prototypes


_PROTOTYPES = _read_prototypes()
_CAPITAL_I = {point: chr(point).casefold() for point, it in _PROTOTYPES.items() if it == "l" and chr(point).isupper()}


def skeletons(name: str) -> set[str]:
    """Return the skeletons of a name, one to three. Names that share one look alike, in some case of their letters.

    The first is that of the name without case, the second that of the name as it is shown, and then without case. The
    third is the second with ``I`` for ``i``, since ``I`` looks like ``l``.
    """
    shown = _IGNORABLE.sub("", unicodedata.normalize("NFKC", name))
    shown = _SPACES.sub(" ", shown).strip()
    return {_skeleton(fold(text)) for text in (shown, _skeleton(shown), _skeleton(shown.translate(_CAPITAL_I)))}


def _skeleton(text: str) -> str:
    replaced = unicodedata.normalize("NFD", text).translate(_PROTOTYPES)
    return unicodedata.normalize("NFD", replaced)[:MOST]
