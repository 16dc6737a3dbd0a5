from mixer.api import create as create
from mixer.api import load as load
from mixer.api import Prediction as Prediction
from mixer.api import save as save
from mixer.api import Weights as Weights
