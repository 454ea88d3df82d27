"""Answers that are wrong for any model and any question: empty, looping, leaking, garbled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log2

LEAKED = re.compile(r"<\|[\w-]{2,40}\|>|</?s>|<(?:pad|bos|eos|unk|start_of_turn|end_of_turn)>|\[/?INST\]|<<SYS>>")
"""Special tokens of the model families in use; none of them belongs in a chat answer."""
FEWEST_WORDS = 8
"""Shorter answers, such as "no, no, no", are not called repetitive."""
SAME_IN_A_ROW = 8
PHRASE_WORDS = 4
FEWEST_PHRASES = 24
SMALLEST_NEW_SHARE = 0.5
"""Smallest share of new phrases among an answer's phrases of four words. English prose has above 0.95; one sentence
three times over has a third."""
FEWEST_CHARACTERS = 60
FEWEST_BITS = 2.0
"""Smallest entropy, bits a character. English has about 4.1, digits with spaces 3.3, `ab ab ab` 1.6."""
UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
"""Scripts that put no spaces between words: Thai, kana, Han."""


def degenerate(answer: str) -> str:
    """The defect of an answer that is wrong for any model; empty where there is none."""
    if not answer.strip():
        return "an empty answer"
    if leaked := LEAKED.search(answer):
        return f"the special token {leaked[0]}"
    if sum(character.isprintable() or character.isspace() for character in answer) < 0.9 * len(answer):
        return "unprintable characters"
    words = _words(answer)
    if len(words) >= FEWEST_WORDS and len(set(words)) <= 2:
        return "the same word again and again"
    if _longest_run(words) >= SAME_IN_A_ROW:
        return f"the same word {SAME_IN_A_ROW} times in a row"
    if (share := new_phrase_share(words)) < SMALLEST_NEW_SHARE:
        return f"the same phrases again and again (only {share:.0%} of them new)"
    if len(answer) >= FEWEST_CHARACTERS and (bits := entropy_bits(answer)) < FEWEST_BITS:
        return f"hardly any information ({bits:.1f} bits a character)"
    return ""


def new_phrase_share(words: Sequence[str]) -> float:
    """Share of new phrases of four words; 1 if there are too few to decide."""
    phrases = [tuple(words[at : at + PHRASE_WORDS]) for at in range(len(words) - PHRASE_WORDS + 1)]
    return len(set(phrases)) / len(phrases) if len(phrases) >= FEWEST_PHRASES else 1.0


def entropy_bits(text: str) -> float:
    """Shannon entropy of the characters, bits each."""
    counts, length = Counter(text).values(), len(text)
    return -sum(count / length * log2(count / length) for count in counts)


def _words(answer: str) -> list[str]:
    if len(UNSPACED.findall(answer)) > len(answer) / 2:
        return [character for character in answer if not character.isspace()]
    # Rules of tables, rows of zeros and lists of numbers may repeat; a loop of them has a low entropy.
    return [word for word in answer.split() if any(map(str.isalpha, word))]


def _longest_run(words: Sequence[str]) -> int:
    longest = run = 0
    last = None
    for word in words:
        run = run + 1 if word == last else 1
        longest = max(longest, run)
        last = word
    return longest
