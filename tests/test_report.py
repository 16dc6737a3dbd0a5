import sys

import numpy as np
import PIL.Image
import pytest

from mixer import pictures
from mixer import records
from mixer import report


def metrics(loss=1., grad_norm=2.):
  return {'loss': np.float32(loss), 'grad_norm': np.float32(grad_norm), 'learning_rate': np.float32(0.1)}


@pytest.fixture
def told(tmp_path):
  with report.Report(tmp_path, first_step=0, total_steps=10, batch_size=8) as told:
    yield told


@pytest.mark.parametrize('bad', [{'loss': np.nan}, {'loss': np.inf}, {'grad_norm': np.nan}])
def test_the_first_step_that_is_not_finite_is_named(told, bad):
  told.step(1, metrics())
  told.step(2, metrics(**bad))
  told.step(3, metrics(loss=np.nan))
  with pytest.raises(FloatingPointError, match='^step 2: the loss is'):
    told.check()


def test_an_evaluation_is_not_told_of_a_run_that_is_lost(told):
  scores = {'test/top1': 0.1, 'test/top5': 0.5, 'test/loss': np.nan, 'test/examples': 7}
  told.step(1, metrics())
  with pytest.raises(FloatingPointError, match='^after step 1: test/loss is nan'):
    told.evaluated(scores)
  told.step(2, metrics(loss=np.nan))
  with pytest.raises(FloatingPointError, match='^step 2: the loss is nan'):
    told.evaluated(scores)


def test_a_step_tells_what_was_logged_and_evaluated_then_and_nothing_else(told, tmp_path):
  for step in range(1, 5):
    told.step(step, metrics(loss=step))
    if step == 2:
      told.log()
    if step == 4:
      told.evaluated({'test/top1': 0.5, 'test/top5': 1., 'test/loss': 3., 'test/examples': 7})
    told.write()
  two, four = records.read(tmp_path / 'records.jsonl')
  assert two.pop('images_per_s_per_core') > 0
  assert two == {'step': 2, 'train/loss': 2., 'train/grad_norm': 2., 'train/learning_rate': pytest.approx(0.1)}
  assert four == {'step': 4, 'test/top1': 0.5, 'test/top5': 1., 'test/loss': 3., 'test/examples': 7}


def test_a_log_file_sees_plain_lines(told, capsys):
  told.step(1, metrics(loss=0.25))
  told.log()
  told.evaluated({'test/top1': 0.5, 'test/top5': 1., 'test/loss': 3., 'test/examples': 1234})
  progress, evaluation = capsys.readouterr().err.splitlines()
  assert progress.startswith('step 1 of 10 (10.0%), loss 0.2500, ') and progress.endswith(' left')
  assert evaluation == 'step 1, test: top-1 50.00%, top-5 100.00%, loss 3.0000 on 1,234 images'


def test_metrics_of_several_labels_have_their_names(told, capsys):
  told.evaluated({'val/precision_at_1': 0.5, 'val/recall_at_5': 0.25, 'val/loss': 3., 'val/examples': 8,
                  'val/classified': 7})
  assert capsys.readouterr().err == 'step 0, val: precision@1 50.00%, recall@5 25.00%, loss 3.0000 on 8 images\n'


def test_a_person_at_a_terminal_sees_a_bar(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  with report.Report(tmp_path, first_step=4, total_steps=10, batch_size=8) as told:
    told.step(5, metrics(loss=0.25))
    told.log()
  printed = capsys.readouterr().err
  assert '5/10' in printed and 'loss 0.2500' in printed and 'images/s/core' in printed and '<' in printed


def test_pictures_show_what_they_are_given(tmp_path):
  lines = [{'step': k, 'train/loss': 1 / k, 'train/grad_norm': 1., 'train/learning_rate': 0.1, 'test/top1': 1 - 1 / k,
            'test/loss': 1 / k} for k in (1, 2, 3)]
  pictures.learning_curves(lines, tmp_path / 'curves.png')
  images = np.zeros((5, 8, 8, 3), np.uint8)
  images[2] = 255  # the wrong one is drawn first: its panel is the only white one
  probabilities = np.eye(3)[[0, 1, 2, 0, 1]]
  pictures.predictions(images, np.array([0, 1, 0, 0, 1]), probabilities, ['a', 'b', 'c'], tmp_path / 'p.png', 1, 5)
  pictures.predictions(images, np.array([0, 1, 0, 0, 1]), probabilities, ['$a_$', 'b', 'c'], tmp_path / 'odd_names.png')
  pictures.predictions(images, np.array([0, 1, 0, 0, 1]), probabilities, None, tmp_path / 'no_names.png')
  pictures.learning_curves([{'step': 1, 'test/top1': 0.5, 'test/loss': 1.}], tmp_path / 'few_records.png')
  assert PIL.Image.open(tmp_path / 'curves.png').size[0] > 500
  pixels = np.asarray(PIL.Image.open(tmp_path / 'p.png').convert('L'))
  strip = pixels[pixels.shape[0] * 3 // 4]
  assert (strip[:len(strip) // 5] == 255).all() and (strip[len(strip) // 5:] == 0).mean() > 0.5
