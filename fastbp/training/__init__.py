"""Training: one step, the loop over it, what belongs to the loop, and what a trained network says about data.

- trainer: one step (Trainer), and its kernels made ready (warmup)
- fitting: the loop over epochs and batches (fit)
- history: what was measured (History), and the training under way as callbacks see it (Run)
- predicting: outputs, classes and probabilities for data, and loss and accuracy on it
- callbacks, schedules, averages: what the loop calls
- views: test-time augmentation
- resume: the file from which an interrupted training goes on
- progress: what the loop shows on standard error
- checks: the checks of arguments that these share
"""

from .fitting import fit
from .history import History, Run
from .predicting import Evaluation, evaluate, outputs, predict, predict_proba
from .trainer import Trainer, warmup

__all__ = [
    "Evaluation", "History", "Run", "Trainer", "evaluate", "fit", "outputs", "predict", "predict_proba", "warmup",
]  # fmt: skip
