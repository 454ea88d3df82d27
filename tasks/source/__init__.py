"""The source of a release: pin it to a commit, admit it by the line's rules, download and verify it.

    source = hub.pin(installation, line)                  # a repository and a 40-hex commit
    admission.admit(source, line)               # or SourceRefused, with every reason
    artifact = download.download(source, line.name, store)

Importing these modules does not import huggingface_hub; calling them does.
"""
