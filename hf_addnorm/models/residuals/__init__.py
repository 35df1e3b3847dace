"""Residuals: how a sublayer's output is added to the stream. Importing this registers all of them.

residuals.py         scalars and vectors: add, constant, scalar, vector, admin, gpas, ...
matrix_residuals.py  those that own matrices: highway, gtrxl's gate, laurel, deep_delta, ...
"""

from . import matrix_residuals, residuals


__all__ = ["matrix_residuals", "residuals"]
