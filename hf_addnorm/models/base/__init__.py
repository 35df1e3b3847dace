"""What every scheme is made with: registries and their options, depth, and what a model knows during a forward."""
