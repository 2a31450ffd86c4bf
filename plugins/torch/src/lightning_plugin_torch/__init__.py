"""The torch engine: sampler and learner in one process, on CPU or GPU, sharing weights."""
