"""Everything about stored trials and the files beside them: storage, lease, manifest, time budget."""
