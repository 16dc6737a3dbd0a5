"""Weights of any origin, read and written: `from mixer import weights`, then `weights.load(...)`."""

from mixer.weights.inference import Prediction
from mixer.weights.loading import load
from mixer.weights.loading import Weights
from mixer.weights.saving import check_can_save
from mixer.weights.saving import files_of
from mixer.weights.saving import save
from mixer.weights.saving import save_for_hub
from mixer.weights.start_from import start

__all__ = ['Prediction', 'Weights', 'check_can_save', 'files_of', 'load', 'save', 'save_for_hub', 'start']
