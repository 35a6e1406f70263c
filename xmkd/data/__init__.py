"""From files to batches: manifests, readers, deterministic preprocessing, cache, augmentation, streams."""
