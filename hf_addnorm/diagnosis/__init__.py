"""What an add & norm does inside a model: figures by layer and sublayer, as numbers, pictures and sentences."""

from .findings import Finding, Row
from .result import Diagnosis, diagnose


__all__ = ["Diagnosis", "Finding", "Row", "diagnose"]
