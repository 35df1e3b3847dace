"""Exporting a model to a runtime that needs neither torch nor this package: ONNX Runtime or OpenVINO."""

from .exporting import ExportError, ExportReport, export


__all__ = ["ExportError", "ExportReport", "export"]
