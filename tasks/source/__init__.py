"""The source of a release: pin it to a commit, admit it by the line's rules, download and verify it.

    source = provider.pin(installation, line)   # a repository or folder, and its commit
    admission.admit(source, line)               # or SourceRefused, with every reason
    artifact = download.download(provider_of(settings, source.repo), source, line.name, store)

Importing these modules does not import huggingface_hub; calling them does.
"""
