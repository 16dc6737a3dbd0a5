"""timm's own models, for tests of ours beside them, with or without torchvision."""

import contextlib
import importlib.util
import sys
from unittest import mock

import pytest

from benchmarks.timm import TORCHVISION


@contextlib.contextmanager
def module(name):
  """timm.models.`name`; the test is skipped without torch or timm.

  timm imports torchvision for other models and for data; all that ours need is that the imports succeed.
  """
  pytest.importorskip('torch', reason='torch is not installed: the extra timm')
  with pytest.MonkeyPatch.context() as patch:
    if importlib.util.find_spec('torchvision') is None:
      for part in TORCHVISION:
        patch.setitem(sys.modules, part, mock.MagicMock(name=part, __path__=[], __spec__=None))
    yield pytest.importorskip(f'timm.models.{name}', reason='timm is not installed: the extra timm')
