"""The language of an answer: by its script, and for Latin script by its commonest words.

Small and deterministic, and `unknown` rather than a guess: a name, a number, code, or a mixture has no language.
It detects a model that answers German questions in English; it is not a general detector.
"""

from __future__ import annotations

import re
from collections import Counter

UNKNOWN = "unknown"
FEWEST_LETTERS = 4
FEWEST_COMMON_WORDS = 2
AHEAD = 1.5
"""Least ratio of common words between the best language and the next."""

SCRIPTS = {
    "ja": r"\u3040-\u30ff",
    "ko": r"\uac00-\ud7af\u1100-\u11ff",
    "zh": r"\u3400-\u4dbf\u4e00-\u9fff",
    "ru": r"\u0400-\u04ff",
    "ar": r"\u0600-\u06ff",
    "hi": r"\u0900-\u097f",
    "el": r"\u0370-\u03ff",
    "he": r"\u0590-\u05ff",
    "th": r"\u0e00-\u0e7f",
}
"""Each script under the language that most texts in it have: Ukrainian counts as `ru`, Persian as `ar`."""
SMALLEST_KANA_SHARE = 0.05
"""Of Han and kana together, from which it is Japanese."""

COMMON_WORDS = {
    "en": "the of and to is that for with you are this not it be have from was your can on as they will which what",
    "de": "der die das und ist nicht ein eine zu mit den von auf für sich dem auch es wird als sie ich wir in er hat",
    "fr": "le la les et est des une un dans que pour pas qui sur avec vous ne au du ce sont il elle nous je plus être",
    "es": "el la los las y es que en un una por con para no se del su al como más pero lo está son muy también hay",
    "it": "il la di che e è un una per non con sono del della le si gli lo dei anche ma più come alla nel questo",
    "pt": "o a os as e é que em um uma por com para não se do da dos no na ao mais como mas são você também está",
    "nl": "de het een en is van dat niet op te zijn voor met die in er aan ook als maar om bij hij je wordt naar",
    "pl": "i w nie na się z do to jest że jak o co ale po tak za od czy są przez dla był może tego przy",
}
_COMMON = {language: frozenset(words.split()) for language, words in COMMON_WORDS.items()}
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPT = {language: re.compile(f"[{ranges}]") for language, ranges in SCRIPTS.items()}


def language_of(text: str) -> str:
    """Two-letter code of a text's language, or `unknown`."""
    prose = _CODE.sub(" ", text)
    words = [word.lower() for word in _WORD.findall(prose)]
    letters = sum(map(len, words))
    counts = {language: len(found.findall(prose)) for language, found in _SCRIPT.items()}
    script = max(counts, key=lambda language: counts[language])
    if counts["ja"] + counts["zh"] > 0 and script in ("ja", "zh"):
        both = counts["ja"] + counts["zh"]
        if both < letters / 2:
            return UNKNOWN
        return "ja" if counts["ja"] >= SMALLEST_KANA_SHARE * both else "zh"
    if letters < FEWEST_LETTERS:
        return UNKNOWN
    # Marks count as letters of Thai or Hindi, but are no word characters to Python.
    if counts[script] > letters / 2:
        return script
    return _latin(words)


def _latin(words: list[str]) -> str:
    found = Counter({language: sum(word in common for word in words) for language, common in _COMMON.items()})
    (best, most), (_, second) = found.most_common(2)
    return best if most >= FEWEST_COMMON_WORDS and most >= AHEAD * second else UNKNOWN
