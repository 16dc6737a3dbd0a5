from mixer.api import create as create
from mixer.api import load as load
from mixer.weights import Prediction as Prediction
from mixer.weights import Weights as Weights
