"""Signatures: what this installation made and judged, and what it therefore believes later.

Two things are signed: an artifact's manifest (`manifests.py`), and statements about an artifact such as its verdict
(`statements.py`). Both are in-toto statements in a DSSE envelope, so that other tools can read them. Whoever may write
a file or a tag can alter it, and cannot sign it again.

    envelope = sign_statement(keys, predicate_type=TYPE, subject={"int8": digest}, predicate={"passes": True})
    predicate = read_statement(keys, envelope, predicate_type=TYPE, subject_sha256=digest)   # or SignatureRefused

`keys.py` finds the key, `ring.py` remembers every key that was ever in use and what it signed, and `rotation.py`
changes it. Verifying imports `cryptography` and nothing heavy, because engines and rollbacks wait for it.
"""

from registry.signing.keys import KEYS_FOLDER, KeyPair
from registry.signing.statements import read_statement, sign_statement

__all__ = ["KEYS_FOLDER", "KeyPair", "read_statement", "sign_statement"]
