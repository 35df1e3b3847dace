"""What an add & norm does inside a model: figures by layer and sublayer, as numbers, pictures and sentences."""

from .diagnosis import Diagnosis, Row, diagnose


__all__ = ["Diagnosis", "Row", "diagnose"]
