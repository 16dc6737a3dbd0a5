import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from mixer.evaluators import sample
from mixer import models
from mixer.run import accelerators
from mixer.run import metric_logger
from mixer.run import plots
from mixer.run import records
from mixer.run import sanity
from mixer.run import summary


def metrics(loss=1., grad_norm=2.):
  return {'loss': np.float32(loss), 'grad_norm': np.float32(grad_norm), 'learning_rate': np.float32(0.1)}


@pytest.fixture
def logger(tmp_path):
  with metric_logger.MetricLogger(tmp_path, first_step=0, total_steps=10, batch_size=8) as logger:
    yield logger


@pytest.mark.parametrize('bad', [{'loss': np.nan}, {'loss': np.inf}, {'grad_norm': np.nan}])
def test_the_first_step_that_is_not_finite_is_named(logger, bad):
  logger.log_step(1, metrics())
  logger.log_step(2, metrics(**bad))
  logger.log_step(3, metrics(loss=np.nan))
  with pytest.raises(FloatingPointError, match='^step 2: the loss is'):
    logger.check_finite()


def test_an_evaluation_of_a_diverged_run_is_not_logged(logger):
  scores = {'test/top1': 0.1, 'test/top5': 0.5, 'test/loss': np.nan, 'test/examples': 7}
  logger.log_step(1, metrics())
  with pytest.raises(FloatingPointError, match='^after step 1: test/loss is nan'):
    logger.log_eval(scores)
  logger.log_step(2, metrics(loss=np.nan))
  with pytest.raises(FloatingPointError, match='^step 2: the loss is nan'):
    logger.log_eval(scores)


def test_a_record_has_what_was_logged_and_evaluated_at_its_step_and_nothing_else(logger, tmp_path):
  for step in range(1, 5):
    logger.log_step(step, metrics(loss=step))
    if step == 2:
      logger.log_progress()
    if step == 4:
      logger.log_eval({'test/top1': 0.5, 'test/top5': 1., 'test/loss': 3., 'test/examples': 7})
    logger.write()
  two, four = records.read(tmp_path / 'records.jsonl')
  assert two.pop('images_per_s_per_core') > 0
  assert two == {'step': 2, 'train/loss': 2., 'train/loss_mean': 1.5, 'train/grad_norm': 2.,
                 'train/learning_rate': pytest.approx(0.1)}
  assert four == {'step': 4, 'test/top1': 0.5, 'test/top5': 1., 'test/loss': 3., 'test/examples': 7}


def test_the_means_are_over_the_steps_since_the_last_line_and_the_latest_values_stay(logger, tmp_path, capsys):
  for step, (loss, top1) in enumerate([(4., 0.), (2., 0.5), (1., 0.25), (3., 0.5), (0.5, 0.75)], 1):
    logger.log_step(step, metrics(loss=loss) | {'top1': np.float32(top1)})
    if step in (2, 5):
      logger.log_progress()
    logger.write()
  seen = [(line['train/loss'], line['train/loss_mean'], line['train/top1'], line['train/top1_mean'])
          for line in records.read(tmp_path / 'records.jsonl')]
  assert seen == [(2., 3., 0.5, 0.25), (0.5, 1.5, 0.75, 0.5)]
  assert 'loss 1.5000, top-1 50.00%, ' in capsys.readouterr().err


@pytest.mark.parametrize('stop', [1, 2, 3, 4])
def test_a_run_that_was_stopped_between_two_lines_logs_the_means_of_one_that_was_not(tmp_path, stop):
  def take(workdir, first, last):
    workdir.mkdir(exist_ok=True)
    with metric_logger.MetricLogger(workdir, first_step=first, total_steps=6, batch_size=8) as logger:
      for step in range(first + 1, last + 1):
        logger.log_step(step, metrics(loss=1 / step))
        if step % 3 == 0:
          logger.log_progress()
        logger.write()
        if step in (stop, last):
          logger.check_finite()
          logger.flush()  # before a checkpoint is saved
  lines = lambda workdir: [{name: x for name, x in line.items() if name != 'images_per_s_per_core'}
                           for line in records.read(workdir / 'records.jsonl')]
  take(tmp_path / 'whole', 0, 6)
  take(tmp_path / 'stopped', 0, stop)
  take(tmp_path / 'stopped', stop, 6)
  assert lines(tmp_path / 'stopped') == lines(tmp_path / 'whole') and len(lines(tmp_path / 'whole')) == 2
  take(tmp_path / 'killed', 0, 5)
  take(tmp_path / 'killed', stop, 6)  # from a checkpoint before the last
  assert lines(tmp_path / 'killed') == lines(tmp_path / 'whole')


def test_every_writer_gets_the_same_values(tmp_path, monkeypatch):
  class ListWriter:
    def __init__(self):
      self.calls = []
    def write(self, step, values):
      self.calls.append((step, values))
    def flush(self):
      self.calls.append('flush')
    def close(self):
      self.calls.append('close')
  writer, make = ListWriter(), metric_logger.make_writers
  monkeypatch.setattr(metric_logger, 'make_writers', lambda *arguments: [*make(*arguments), writer])
  with metric_logger.MetricLogger(tmp_path, first_step=0, total_steps=2, batch_size=8) as logger:
    for step in (1, 2):
      logger.log_step(step, metrics())
      logger.log_progress()
      logger.write()
    logger.log_eval({'test/top1': 0.5, 'test/examples': 7})
    logger.write()
  records_of_steps = {}
  for step, values in writer.calls[:-2]:
    records_of_steps.setdefault(step, {'step': step}).update(values)
  assert list(records_of_steps.values()) == list(records.read(tmp_path / 'records.jsonl'))
  assert writer.calls[-2:] == ['flush', 'close']


@pytest.mark.parametrize('kind, word', [('TPU v2', 'core'), ('TPU v3', 'core'), ('TPU v4', 'device'), ('cpu', 'device'),
                                        ('TPU v5 lite', 'device'), ('NVIDIA H100 80GB HBM3', 'GPU'),
                                        ('NVIDIA GeForce RTX 4090', 'GPU')])
def test_only_what_is_half_a_chip_is_called_a_core(kind, word):
  assert accelerators.noun(kind) == word


def test_the_utilisation_is_the_speed_over_that_at_the_peak(tmp_path, capsys):
  with metric_logger.MetricLogger(tmp_path, first_step=0, total_steps=10, batch_size=8, peak_speed=1e3) as logger:
    logger.log_step(1, metrics())
    logger.log_progress()
    logger.write()
  record, = records.read(tmp_path / 'records.jsonl')
  assert record['mfu'] == pytest.approx(record['images_per_s_per_core'] / 1e3)
  assert f', MFU {record["mfu"]:.1%}, ' in capsys.readouterr().err


@pytest.mark.parametrize('kind, step, passes, peak', [
    ('TPU v3', {}, 3, 61.5e12), ('NVIDIA H100 80GB HBM3', {}, 3, 989.4e12), ('TPU v4', {'sam': {'rho': 0.1}}, 6, 275e12),
    ('cpu', {}, 3, None), ('NVIDIA GeForce RTX 4090', {}, 3, None)])
def test_the_speed_at_the_peak(monkeypatch, kind, step, passes, peak):
  model = models.build(name='mlp_mixer', num_classes=5, patch_size=4, num_blocks=2, hidden_dim=16, tokens_mlp_dim=10,
                       channels_mlp_dim=24)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  monkeypatch.setattr(summary.jax, 'devices', lambda: [types.SimpleNamespace(device_kind=kind)])
  speeds = [summary.flops_and_peak_speed(model.clone(scan=scan), params, 8, step)[1] for scan in (False, True)]
  # 4 tokens: the stem, two blocks of token and channel mixing, and the head.
  macs = 4 * 48 * 16 + 2 * 2 * (16 * 4 * 10 + 4 * 16 * 24) + 16 * 5
  assert speeds == [peak and pytest.approx(peak / (2 * passes * macs))] * 2


def test_a_log_file_gets_plain_lines(logger, capsys):
  logger.log_step(1, metrics(loss=0.25))
  logger.log_progress()
  logger.log_eval({'test/top1': 0.5, 'test/top5': 1., 'test/loss': 3., 'test/examples': 1234})
  progress, evaluation = capsys.readouterr().err.splitlines()
  assert re.fullmatch(r'step 1 of 10 \(10.0%\), loss 0.2500, [\d,]+ images/s/device, \d+ s left', progress)
  assert evaluation == 'step 1, test: top-1 50.00%, top-5 100.00%, loss 3.0000 on 1,234 images'


def test_metrics_of_several_labels_have_their_names(logger, capsys):
  logger.log_eval({'val/precision_at_1': 0.5, 'val/recall_at_5': 0.25, 'val/loss': 3., 'val/examples': 8,
                  'val/classified': 7})
  assert capsys.readouterr().err == 'step 0, val: precision@1 50.00%, recall@5 25.00%, loss 3.0000 on 8 images\n'


def test_one_image_is_no_images(logger, capsys):
  logger.log_eval({'val/top1': 1., 'val/loss': 3., 'val/examples': 1})
  assert capsys.readouterr().err == 'step 0, val: top-1 100.00%, loss 3.0000 on 1 image\n'


def test_a_person_at_a_terminal_sees_a_bar(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  with metric_logger.MetricLogger(tmp_path, first_step=4, total_steps=10, batch_size=8) as logger:
    logger.log_step(5, metrics(loss=0.25))
    logger.log_progress()
  printed = capsys.readouterr().err
  assert '5/10' in printed and 'loss 0.2500' in printed and 'images/s/device' in printed and '<' in printed


def test_plots_show_their_arguments(tmp_path):
  lines = [{'step': k, 'train/loss': 1 / k, 'train/grad_norm': 1., 'train/learning_rate': 0.1, 'test/top1': 1 - 1 / k,
            'test/loss': 1 / k} for k in (1, 2, 3)]
  plots.learning_curves(lines, tmp_path / 'curves.png')
  images = np.zeros((5, 8, 8, 3), np.uint8)
  images[0] = 255  # the wrong one: its panel is the only white one
  shown = sample.Sample(images, np.array([0, 0, 1, 0, 1]), np.array([2, 0, 1, 0, 1]), np.full(5, 0.9), wrong=1,
                        classified=5, most_frequent=3)
  for name, class_names in (('p.png', ['a', 'b', 'c']), ('odd_names.png', ['$a_$', 'b', 'c']), ('no_names.png', None)):
    plots.predictions(shown, class_names, tmp_path / name, columns=5)
  plots.learning_curves([{'step': 1, 'test/top1': 0.5, 'test/loss': 1.}], tmp_path / 'few_records.png')
  plots.learning_curves([], tmp_path / 'no_records.png')
  assert PIL.Image.open(tmp_path / 'curves.png').size[0] > 500
  pixels = np.asarray(PIL.Image.open(tmp_path / 'p.png').convert('L'))
  strip = pixels[pixels.shape[0] * 3 // 4]
  assert (strip[:len(strip) // 5] == 255).all() and (strip[len(strip) // 5:] == 0).mean() > 0.5


def drawn(monkeypatch):
  """The figures that `plots` saves from now on."""
  figures = []
  monkeypatch.setattr(plots, '_save', lambda canvas, path, dpi: figures.append(canvas))
  return figures


def curves(axes):
  return {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}


def test_the_picture_is_of_mean_losses_and_of_errors_in_percent(monkeypatch):
  figures = drawn(monkeypatch)
  plots.learning_curves([{'step': k, 'train/loss': 9., 'train/loss_mean': 2. / k, 'train/top1': 0.,
                             'train/top1_mean': 0.5, 'val/top1': 1 - k / 8, 'val/loss': 3., 'real/precision_at_1': 1.} for k in (1, 2)], 'x.png')
  loss, error, *_ = figures[0].axes
  assert curves(loss) == {'train, mean since the last point': [2., 1.], 'val': [3., 3.]}
  assert curves(error) == {'train, mean since the last point': [50., 50.], 'val, 25.00 at the end': [12.5, 25.],
                           'real, 0.00 at the end': [0., 0.]}
  assert error.get_title('left') == 'top-1 error, %' and error.get_yscale() == 'linear'  # zero has no logarithm
  plots.learning_curves([{'step': 1, 'train/loss': 9., 'val/top1': 0.5}], 'x.png')  # as earlier runs have it
  loss, error, *_ = figures[1].axes
  assert curves(loss) == {'train': [9.]} and error.get_yscale() == 'log'


@pytest.mark.parametrize('number, classified, wrong, title', [
    (60, 10000, 412, '60 of 10,000 images, wrong ones first (red): 412 wrong in all, 4.12%'),
    (1, 1, 0, '1 of 1 image, wrong ones first (red): 0 wrong in all, 0.00%')])
def test_the_title_says_of_how_many_images_the_sample_is(monkeypatch, number, classified, wrong, title):
  figures = drawn(monkeypatch)
  labels = np.zeros(number, int)
  plots.predictions(sample.Sample(np.zeros((number, 4, 4, 3), np.uint8), labels, labels, np.ones(number), wrong=wrong,
                                     classified=classified, most_frequent=1), None, 'x.png')
  assert [text.get_text() for text in figures[0].texts] == [title]


class Sample:
  def __init__(self, most_frequent, classified):
    self.most_frequent, self.classified = most_frequent, classified


def judged(losses, top1=0.9, loss='softmax_xent', num_classes=10, pretrained=False, images=360, key='top1', share=0.1):
  return sanity.warnings([{'step': k, 'train/loss_mean': x} for k, x in enumerate(losses)], {f'test/{key}': top1},
                         {'test': Sample(share * images, images)}, loss=loss, num_classes=num_classes,
                         pretrained=pretrained)


@pytest.mark.parametrize('fields', [
    dict(losses=[2.3, 1., 0.1]), dict(losses=[2.3]), dict(losses=[]), dict(losses=[0.1, 0.09, 0.105], pretrained=True),
    dict(losses=[70., 20.], loss='sigmoid_xent'), dict(losses=[0.7, 0.1], num_classes=2, images=4, top1=1., share=0.5),
    dict(losses=[0.1, 0.05], num_classes=1, top1=1., share=1.)])  # of one class nothing is worse than chance
def test_a_run_that_has_learned_something_is_not_warned_of(fields):
  assert judged(**fields) == []


@pytest.mark.parametrize('fields, texts', [
    (dict(losses=[2., 3., 83e6]), [r'The training loss is 8.3e\+07 at the end, above the 2 of the beginning. Lower the ']),
    (dict(losses=[0.1, 0.2], pretrained=True), ['The training loss is 0.2 at the end, above the 0.1 of the beginning']),
    (dict(losses=[70., 71.], loss='sigmoid_xent'), ['The training loss is 71 at the end, above the 70']),
    (dict(losses=[2.31] * 30), ['The training loss is 2.31 at the end, and equal probabilities for all 10 classes would '
                                'give 2.303. Look at the training images']),
    (dict(losses=[900., 191.], top1=0.1), [r'191 at the end, and equal .* give 2.303. Lower the learning', 'chance. Look at']),
    (dict(losses=[2.31] * 9, top1=0.1), ['2.303. Look at', 'no better than chance.$']),
    (dict(losses=[2.3, 1.], top1=0.1), ['On test the accuracy is 10.00%, and always predicting the most frequent class would '
                                        'give 10.00%: no better than chance. Look at']),
    (dict(losses=[2.3, 1.], top1=0.8, share=0.81, key='precision_at_1'), ['always predicting the most frequent class would give 81']),
    (dict(losses=[2., 3.], top1=0.05), ['above the 2 of the beginning', 'no better than chance']),
    # The mean of the last tenth, not the last line alone.
    (dict(losses=[1.] * 2 + [0.5] * 16 + [0.1, 3.]), ['The training loss is 1.55 at the end, above the 1 of'])])
def test_a_run_that_has_not_learned_says_so_with_what_to_try(fields, texts):
  warnings = judged(**fields)
  assert len(warnings) == len(texts)
  for warning, text in zip(warnings, texts):
    assert re.search(text, warning)
