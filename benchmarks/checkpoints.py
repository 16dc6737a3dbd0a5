"""The cost of checkpoints and of resuming: Mixer-B/16 on fake images, with all parts of train.py.

  python -m benchmarks.checkpoints

Prints a table in Markdown and writes benchmarks/checkpoints.json. Seconds are of the machine that measured them; the
stalls are also in steps.
"""

import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import tqdm

from benchmarks import ours
from benchmarks import workloads
from mixer.run import checkpoint
from mixer.run import devices
from mixer.run import preemption

ROOT = pathlib.Path(__file__).parent.parent
BATCH = 8  # images
SAVES, STEPS_BETWEEN = 3, 6


def saving(workdir) -> dict[str, float]:
  """Times steps with an asynchronous save after some of them, and the others."""
  config = workloads.config('B/16', BATCH)
  data = ours.data_of(config)
  init, p_train_step = ours.build(config, data.image_shape)
  state = devices.init_replicated(init)
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  batch = next(data.start(0))
  alone, beside, stalls = [], [], []
  with checkpoint.Checkpoints(workdir=workdir, run={}, metrics=(), every_steps=1) as checkpoints:
    under_way = None
    for step in tqdm.trange(1, (SAVES + 1) * STEPS_BETWEEN + 3, desc='steps', unit='step'):
      began = time.monotonic()
      state, metrics = p_train_step(state, batch)
      jax.block_until_ready(metrics)
      took = time.monotonic() - began
      if under_way:  # the step after a save, and those until it is on the disk
        beside.append(took)
        if (pathlib.Path(workdir) / 'checkpoints' / f'{under_way}').exists():
          under_way = None
      elif step > 2:  # the first one compiles
        alone.append(took)
      if step > STEPS_BETWEEN and step % STEPS_BETWEEN == 3:
        saved = time.monotonic()
        checkpoints.save(step, state)
        stalls.append(time.monotonic() - saved)
        under_way = step
  median = statistics.median(alone)
  return {'state_mib': size / 2**20, 'step_s': median, 'save_call_s': statistics.median(stalls),
          'save_call_s_max': max(stalls), 'step_beside_save_s': statistics.median(beside),
          'steps_beside_a_save': len(beside) / len(stalls),
          'stall_in_steps': (statistics.median(stalls) + sum(t - median for t in beside) / len(stalls)) / median}


def resuming(workdir) -> dict[str, float]:
  """Interrupts train.py by SIGTERM and restarts it: seconds from the signal to its exit, and from its start to a step.

  The first start finds no compiled programs, the second one its own, and the third one may not load them.
  """
  command = [sys.executable, 'train.py', '--config=configs/mixer_b16_i1k.py', f'--workdir={workdir}',
             '--config.data.dataset=fake', f'--config.data.batch_size={BATCH}', '--config.evals={}',
             '--config.log_every_steps=1']
  environment = dict(os.environ, JAX_PLATFORMS='cpu', JAX_COMPILATION_CACHE_DIR=f'{workdir}/compiled')
  times = {}
  for attempt, flags in {'first': [], 'second': [], 'third': ['--nocompilation_cache']}.items():
    began, log = time.monotonic(), []
    with subprocess.Popen(command + flags, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as process:
      for line in process.stderr:
        log.append(line)
        if line.startswith('step '):
          break
      stepped = time.monotonic()
      process.send_signal(signal.SIGTERM)
      log += process.stderr
    if process.returncode != preemption.EXIT_PREEMPTED:
      raise RuntimeError(f'train.py ended with {process.returncode}:\n{"".join(log)}')
    times |= {f'{attempt}_start_to_step_s': stepped - began, 'notice_to_exit_s': time.monotonic() - stepped}
  return times


def main():
  devices.tune_glibc_malloc()  # as train.py does
  with tempfile.TemporaryDirectory() as folder:
    results = {**saving(f'{folder}/saving'), **resuming(f'{folder}/resuming')}
  results |= {'machine': f'{os.cpu_count()} x {platform.processor() or platform.machine()}', 'jax': jax.__version__,
              'devices': str(jax.devices()[0].device_kind)}
  (ROOT / 'benchmarks' / 'checkpoints.json').write_text(json.dumps(results, indent=2) + '\n')
  step = results['step_s']
  print(f"""
| Mixer-B/16 with Adam, state of {results['state_mib']:,.0f} MiB, batch {BATCH}, {results['devices']} | seconds | steps |
| --- | --- | --- |
| a step | {step:.2f} | 1 |
| the loop waits in `save` | {results['save_call_s']:.2f} (at most {results['save_call_s_max']:.2f}) | {results['save_call_s'] / step:.2f} |
| a step while a checkpoint is written | {results['step_beside_save_s']:.2f} | {results['step_beside_save_s'] / step:.2f} |
| a save in total | | {results['stall_in_steps']:.2f} |
| from the start of train.py to its first step | {results['first_start_to_step_s']:.1f} | |
| from a restart to the first resumed step | {results['second_start_to_step_s']:.1f} | |
| the same without the compilation cache | {results['third_start_to_step_s']:.1f} | |
| from SIGTERM to the exit, checkpoint written | {results['notice_to_exit_s']:.1f} | |""")


if __name__ == '__main__':
  main()
