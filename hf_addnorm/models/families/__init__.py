"""The families: a config and the models of each."""
