"""Finite differences: is a gradient the derivative of its function?"""

from .check import check_gradients
from .report import GradientError, GradientReport, TensorCheck

__all__ = ["GradientError", "GradientReport", "TensorCheck", "check_gradients"]
