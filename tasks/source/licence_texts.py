"""The licence of a file that holds nothing but a known licence's text, for models that come without a card.

Only whole texts count: one with words added or left away is not that licence. Titles, copyright lines, spaces and
punctuation make no difference.
"""

from __future__ import annotations

import hashlib
import re

_SPDX = re.compile(r"\s*(?:[#/*]+\s*)?SPDX-License-Identifier:\s*([A-Za-z0-9][A-Za-z0-9.+-]*)\s*")
# SHA-256 over a text's words, in lower case with one space between.
_APACHE_TERMS = "37599287c15c2f2ec060c3c3b55bdf69e3bc7a8aeeb9cd57e18800088789538a"
_APACHE_APPENDIX = "5632e3d7e64b7ad9fd2c14ed0daabfa9c7898f31dba34ad57e6e20071cc5a43a"
_APACHE_NOTICE = "7a46cf4a5d56898d746584f4fe57bdf571d600a8f39d21063431d88929f803c7"
_MIT = "0cf21bdfd1964a97a8615e128534845826afbc887edc95aa5c925cbf64386b5c"
_APACHE_END = " end of terms and conditions"
_APACHE_AFTER = re.compile(
    r"(?:(?P<appendix>appendix .*? within third party archives) )?copyright (?:\S+ ){0,20}?"
    r"(?P<notice>licensed under the apache license .*)"
)
_MIT_START = "Permission is hereby granted, free of charge"
_MIT_HEAD = re.compile(
    r"\s*|\W*(the )?mit licen[cs]e\W*(\(mit\))?\W*|\W*(copyright|\(c\)|©|all rights reserved).{0,200}", re.IGNORECASE
)


def licence_of_file(content: bytes) -> str | None:
    """Return the SPDX id of a licence file; None if it is not the whole text of a known licence, and nothing else.

    Args:
        content: Of the file. `SPDX-License-Identifier: NAME` as its only line names any licence.
    """
    text = content.decode("utf-8-sig", errors="replace")
    if named := _SPDX.fullmatch(text):
        return named[1].lower()
    if _is_apache(_words(text)):
        return "apache-2.0"
    return "mit" if _is_mit(text) else None


def _is_apache(words: str) -> bool:
    terms, end, after = words.partition(_APACHE_END)
    if not end or _digest(terms) != _APACHE_TERMS:
        return False
    if not after:
        return True
    found = _APACHE_AFTER.fullmatch(after.strip())
    if found is None or _digest(found["notice"]) != _APACHE_NOTICE:
        return False
    return found["appendix"] is None or _digest(found["appendix"]) == _APACHE_APPENDIX


def _is_mit(text: str) -> bool:
    head, start, rest = text.partition(_MIT_START)
    return bool(start) and _digest(_words(start + rest)) == _MIT and all(map(_MIT_HEAD.fullmatch, head.splitlines()))


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.casefold()))


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()
