"""Conversion: another add & norm in a trained model, without losing what it knows.

sources and specs   source.py, candidates.py, batches.py: what is converted, to what, on which data
algebra             forms.py, linears.py, pairs.py, rules.py, stream_rules.py, embeddings.py, rewriting.py
calibration         stepping.py, fitting.py, importance.py, calibrating.py
result              measuring.py, report.py; conversion.py is the call
"""

from .conversion import convert
from .report import ConversionReport
from .rewriting import ALL_RULES


__all__ = ["ALL_RULES", "ConversionReport", "convert"]
