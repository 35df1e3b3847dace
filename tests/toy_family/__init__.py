"""A family outside the package: XLM-RoBERTa-XL, whose layers have BERT's shape."""
