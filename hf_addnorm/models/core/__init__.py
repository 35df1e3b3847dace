"""The mechanism: how a stock model becomes an AddNorm model, starts its weights, is saved and is pushed."""
