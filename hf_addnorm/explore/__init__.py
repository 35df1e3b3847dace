"""A page to try schemes on: `hf-addnorm explore`. What it shows is in `looks.py` and `curves.py`."""
