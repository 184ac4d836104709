"""Apps: from a directory with a model in it to processes that run it.

directory --manifest, package, environment, importing--> AppVersion, and on disk
    packages/<checksum>/       the files of a version, never changed
    environments/<key>/        what its requirements ask for
"""
