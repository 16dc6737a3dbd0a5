"""The average of the parameters: what it is, and its way through checkpoints, evaluations, loading and files."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixer
from mixer import arguments
from mixer.run import finished
from mixer.run import records
from mixer.training import train_step
import test_train
import test_train_step
from tools import convert
import train

DECAY = 0.9
# With all else that a step may have: the state and the seed say all of it.
RECIPE = {'step.ema': DECAY, 'step.sam': dict(rho_max=0.1, rho_min=0.05, alpha=0.1, images_per_perturbation=4),
          'step.mixup': 0.5, 'step.cutmix': 1., 'step.cutmix_probability': 0.5, 'step.label_smoothing': 0.1}


@pytest.mark.parametrize('decay', [0.5, 0.9999])
def test_it_is_the_mean_of_the_parameters_after_each_step_weighted_by_powers_of_the_decay(decay):
  steps = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
  average = jax.jit(functools.partial(train_step.averaged, decay))
  mean = {'x': np.full(7, 1e3, np.float32)}  # the initial parameters have no weight
  for step, params in enumerate(steps, 1):
    mean = average(step, mean, {'x': params})
    weights = decay ** np.arange(step - 1, -1, -1, dtype=np.float64)
    np.testing.assert_allclose(mean['x'], weights @ steps[:step] / weights.sum(), rtol=1e-4, atol=1e-4)


def test_the_steps_are_those_without_an_average():
  model, (optimizer, learning_rate) = test_train_step.a_model(), test_train_step.an_optimizer()
  batch = jax.tree.map(lambda x: x.reshape(jax.device_count(), -1, *x.shape[1:]), test_train_step.a_batch())
  ends = []
  for ema in (None, DECAY):
    state = test_train_step.start(model, optimizer)
    state = state if ema is None else state.replace(ema=state.params)
    step = train_step.make_train_step(model=model, optimizer=optimizer, learning_rate=learning_rate, seed=0,
                                      loss='softmax_xent', ema=ema)
    visited = []
    for _ in range(3):
      state, _ = step(state, batch)
      visited.append(jax.device_get(state.params))
    ends.append(state)
  plain, averaged = ends
  assert plain.ema is None
  for one, other in zip(jax.tree.leaves((plain.params, plain.opt_state)), jax.tree.leaves((averaged.params, averaged.opt_state))):
    np.testing.assert_array_equal(one, other)
  weights = [DECAY**2, DECAY, 1]
  expected = jax.tree.map(lambda *x: sum(w * part for w, part in zip(weights, x)) / sum(weights), *visited)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), averaged.ema, expected)


def test_the_average_of_bfloat16_parameters_is_in_float32():
  mean = train_step.averaged(DECAY, 2, {'x': jnp.ones(1)}, {'x': jnp.ones(1, jnp.bfloat16) * 1.5})
  assert mean['x'].dtype == jnp.float32
  np.testing.assert_allclose(mean['x'], (0.9 + 1.5) / 1.9, rtol=1e-6)


@pytest.mark.parametrize('decay', [0., 1., -0.5])
def test_a_decay_out_of_range_is_refused(decay):
  with pytest.raises(arguments.ArgumentError, match=rf'ema is {decay}; it must be (above 0|below 1)'):
    a_train_step(decay)


def a_train_step(decay):
  optimizer, learning_rate = test_train_step.an_optimizer()
  return train_step.make_train_step(model=test_train_step.a_model(), optimizer=optimizer, learning_rate=learning_rate,
                                    seed=0, loss='softmax_xent', ema=decay)


def test_an_evaluation_with_the_name_of_an_averages_results_is_refused(data_dir, tmp_path):
  both = test_train.config(data_dir, **RECIPE)
  both.evals.test_ema = both.evals.test
  with pytest.raises(ValueError, match='both test and test_ema .* with step.ema, test_ema is the name of the results of test'):
    train.train(both, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def run(data_dir, tmp_path_factory):
  """The work directory and the result of a run with an average."""
  workdir = tmp_path_factory.mktemp('averaged') / 'run'
  return workdir, train.train(test_train.config(data_dir, **RECIPE), str(workdir))


def test_a_run_scores_and_saves_it_and_goes_on_bit_for_bit(run, data_dir, tmp_path, monkeypatch):
  workdir, results = run
  assert results['test_ema/examples'] == 360 and results['test_ema/loss'] != results['test/loss']
  last = list(records.read(workdir / 'records.jsonl'))[-1]
  assert last['test_ema/top1'] == results['test_ema/top1']
  card = (workdir / 'card.md').read_text()
  assert '| test_ema | top1 |' in card and 'NAME_ema is of the average of the weights (decay 0.9), which --average' in card

  config = test_train.config(data_dir, **RECIPE, **{'checkpoint.best': 'test_ema/top1'})
  test_train.stop_after(monkeypatch, 3, config, tmp_path)
  assert train.train(config, str(tmp_path)) == results
  state = test_train.last_state(workdir)
  assert test_train.same(test_train.last_state(tmp_path), state) and any(name.startswith("['ema']") for name in state)


def test_it_is_loaded_scored_and_saved(run, tmp_path):
  workdir, results = run
  average, last = mixer.load(workdir, average=True), mixer.load(workdir)
  assert 'the average of the weights up to step 6 of the run in' in average.describe()
  state = test_train.last_state(workdir)
  np.testing.assert_array_equal(average.params['head']['bias'], state["['ema']['head']['bias']"])
  np.testing.assert_array_equal(last.params['head']['bias'], state["['params']['head']['bias']"])
  mixer.save(average, tmp_path / 'w.npz')
  np.testing.assert_array_equal(mixer.load(tmp_path / 'w.npz').params['stem']['kernel'], average.params['stem']['kernel'])
  finished.save(workdir, test_train.config(None), results, '')
  convert.main([str(workdir), str(tmp_path / 'hub'), '--to=hf', '--average'])
  assert f'{results["test_ema/loss"]:.4f}' in (card := (tmp_path / 'hub/README.md').read_text())
  assert f'{results["test/loss"]:.4f}' not in card


def test_an_average_that_is_not_there_is_refused(run, tmp_path):
  plain = tmp_path / 'plain'
  shutil.copytree(run[0], plain)
  config = json.loads((plain / 'config.json').read_text())
  del config['step']['ema']
  (plain / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='plain has no average of its weights: .*config.json has no step.ema. Leave out '
                                       'average, or train with --config.step.ema=0.9999'):
    mixer.load(plain, average=True)
  mixer.save(mixer.load(plain), tmp_path / 'w.npz')
  for name in (tmp_path / 'w.npz', 'imagenet1k/Mixer-B_16', 'hf-hub:timm/mixer_b16_224.goog_in21k'):
    with pytest.raises(ValueError, match=f'{name} is no run of config.step.ema, but one set of weights; leave out average'):
      mixer.load(name, average=True)
