"""Models that are made of several AddNorm models: stacks and encoder-decoders."""
