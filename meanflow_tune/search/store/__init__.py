"""Stored trials and the files of a study: storage, lease, manifest, time budget."""
