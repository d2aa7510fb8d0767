"""The rooms behind the scripts: data, cache, synthetic sets, losses, coresets, runs and pictures."""
