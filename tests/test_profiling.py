"""--profile_steps: which steps are traced, and what the files of a trace hold."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from mixer.run import profiling


def run(steps, workdir, first_step=2, total_steps=9):
  train_step = profiling.trace(jax.jit(lambda state, batch: (state + batch.sum(), state)), steps, workdir, first_step, total_steps)
  state = jnp.zeros(())
  for _ in range(first_step, total_steps):
    state, _ = train_step(state, jnp.ones(3))
  return float(state)


def steps_of(events):
  return sorted(int(event['args']['step_num']) for event in events if event.get('name') == 'train')


@pytest.mark.parametrize('steps, expected', [('3:4', [3]), ('5:8', [5, 6, 7]), ('3:10', list(range(3, 10)))])
def test_the_steps_between_are_traced_with_their_numbers(tmp_path, steps, expected):
  assert run(steps, tmp_path) == 3 * 7
  folder, = (tmp_path / 'profile' / 'plugins' / 'profile').iterdir()  # where TensorBoard looks
  perfetto = json.loads(gzip.decompress((folder / 'perfetto_trace.json.gz').read_bytes()))
  assert steps_of(perfetto['traceEvents']) == expected
  xplane, = folder.glob('*.xplane.pb')
  data = jax.profiler.ProfileData.from_file(str(xplane))
  numbers = [dict(event.stats)['step_num'] for plane in data.planes for line in plane.lines for event in line.events
             if event.name == 'train']
  assert sorted(numbers) == expected


def test_a_resumed_run_traces_those_that_are_left(tmp_path):
  assert run('1:5', tmp_path) == 21
  perfetto, = tmp_path.rglob('perfetto_trace.json.gz')
  assert steps_of(json.loads(gzip.decompress(perfetto.read_bytes()))['traceEvents']) == [3, 4]


def test_without_the_flag_and_when_none_of_its_steps_is_left_nothing_is_traced(tmp_path):
  assert run(None, tmp_path) == 21 and run('1:3', tmp_path) == 21 and run('3:4', tmp_path, first_step=9) == 0
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('steps', ['3', '3:', ':4', 'a:b', '5:5', '5:4', '0:4', '3:11', '-3:4'])
def test_steps_that_the_run_does_not_have_are_refused(tmp_path, steps):
  with pytest.raises(ValueError, match=f'^--profile_steps is {steps}; it must be FIRST:END of the steps 1 to 9, END not included, '
                                       'such as 1:6$'):
    run(steps, tmp_path)
  assert (profiling.parse(steps) is None) == (steps != '3:11')
