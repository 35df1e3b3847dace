"""A family outside the package: RoBERTa, whose layers have BERT's shape."""
