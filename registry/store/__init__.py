"""The artifact store: models, each named by its content.

`store://<line>/<sha256>` is the SHA-256 of the manifest's list of files, so two identical models are one artifact, and
an altered model is another. A model is built in a staging folder on the same disk, synced, and renamed into place: it
is there whole or not at all. Beside the model's files lies `manifest.json`, which says what they are and where they
came from, and `manifest.sig`, which says who made it (registry/signing/).

    store = Store.of(settings)                  # of an installation, with its remote store if it has one
    with store.fresh_staging("llama", key) as folder:
        artifact = store.adopt(folder, line="llama", scheme="int8", repo=…, commit=…)
    store.path(artifact)                        # the folder, verified; or ArtifactUnsigned, ArtifactDamaged
    with store.reading(artifact) as (folder,):  # the same for a long reading: verified before, unchanged after
        ...
    clean(store, keep={artifact.digest})        # frees this disk
"""

from registry.store.artifact import MANIFEST, MODEL, Artifact, FileEntry, Manifest, digest_of, sha256_of
from registry.store.check import stamps_of
from registry.store.cleanup import Cleaned, Removed, clean
from registry.store.local import Store
from registry.store.origins import origins
from registry.store.provenance import Input, Provenance, provenance_of

__all__ = [
    "MANIFEST",
    "MODEL",
    "Artifact",
    "Cleaned",
    "FileEntry",
    "Input",
    "Manifest",
    "Provenance",
    "Removed",
    "Store",
    "clean",
    "digest_of",
    "origins",
    "provenance_of",
    "sha256_of",
    "stamps_of",
]
