"""The shell scripts: what they would run, what the real gcloud says to that, and what they do with a fake one."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import ROOT
import golden

SCRIPTS = sorted((ROOT / 'scripts').glob('*.sh'))
SLICE = ['--name=b16', '--zone=us-central1-a', '--accelerator_type=v5litepod-16']
RUN = ['--config=configs/mixer_b16_i21k.py', '--workdir=gs://bucket/b16']
DRY_RUNS = {
    'create': SLICE,
    'create --spot': ['create', *SLICE, '--spot', '--project=project'],
    'create --queued': ['create', *SLICE, '--spot', '--queued', '--create_flag=--network=lab'],
    'setup': SLICE,
    'setup --repo': ['setup', *SLICE, '--repo=https://example.com/mixer', '--commit=v1'],
    'train': [*SLICE, *RUN, '--env=LIBTPU_INIT_ARGS=--a=1 --b=2', '--', '--config.data.data_dir=/mnt/data',
              '--config.evals.val.data_dir=/mnt/data'],
    'train --workdir': ['train', *SLICE, *RUN, "--workdir=/home/me/it's mine"],
    'watch': [*SLICE, *RUN],
    'status': SLICE,
    'logs': [*SLICE, '--worker=3'],
    'stop': SLICE,
    'delete': SLICE,
}

needs_flock = pytest.mark.skipif(not shutil.which('flock'), reason='the workers need flock, of Linux')


def executable(path, text):
  path.write_text(text)
  path.chmod(0o755)


def dry_run(title):
  arguments = DRY_RUNS[title]
  if ' ' not in title:
    arguments = [title, *arguments]
  done = subprocess.run([ROOT / 'scripts' / 'tpu_vm.sh', arguments[0], '--dry_run', *arguments[1:]], text=True,
                        capture_output=True, env={'PATH': '/usr/bin:/bin'})
  assert done.returncode == 0 and not done.stderr, done.stderr
  return done.stdout


def test_shellcheck_passes():
  shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
  done = subprocess.run([shellcheck, *SCRIPTS, ROOT / '.ci' / 'run'], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_a_dry_run_prints_the_commands():
  golden.check('tpu_vm', '\n'.join(f'## {title}\n{dry_run(title)}' for title in DRY_RUNS))


@pytest.fixture
def paste(tmp_path):
  """Runs what one could paste into a shell, with commands that do nothing. Returns those of gcloud."""
  executable(tmp_path / 'command', f'#!{sys.executable}\nimport shlex, sys\n'
             f'open("{tmp_path}/calls", "a").write(shlex.join(sys.argv[1:]) + chr(0))\n')
  (tmp_path / 'scripts').mkdir()
  executable(tmp_path / 'scripts' / 'tpu_vm.sh', '#!/bin/bash\n'
             f'PATH=/usr/bin:/bin exec {ROOT}/scripts/tpu_vm.sh $1 --dry_run "${{@:2}}" >/dev/null\n')
  for path in ('scripts/keep_training.sh', '.venv/bin/python'):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    executable(tmp_path / path, '#!/bin/sh\n')
  # This PATH has no commands at all.
  nothing = (f'PATH={tmp_path}/none HOME={tmp_path}\ncommand_not_found_handle() {{ {tmp_path}/command "$@"; }}\n'
             'exit() { :; }; cd() { :; }; source() { :; }\n')

  def run(text):
    subprocess.run(['/bin/bash', '-euc', nothing + text], cwd=tmp_path, check=True)
    calls = (tmp_path / 'calls').read_text().split('\0')
    return sorted({line for line in calls if line.startswith('gcloud ')})

  return run


def check_with_gcloud(commands, folder):
  """Fails unless the real gcloud knows all the commands and their flags. It needs no network for that."""
  gcloud = shutil.which('gcloud')
  if not gcloud:
    pytest.skip('gcloud is not installed')
  (folder / 'commands.json').write_text(json.dumps([{'command_string': line} for line in commands]))
  answer = subprocess.run([gcloud, 'meta', 'lint-gcloud-commands', f'--commands-file={folder}/commands.json'],
                          capture_output=True, text=True,
                          env={**os.environ, 'CLOUDSDK_CONFIG': str(folder / 'empty'), 'CLOUDSDK_CORE_PROJECT': 'project',
                               'CLOUDSDK_CORE_DISABLE_PROMPTS': '1'})
  if 'Invalid choice' in answer.stderr:
    pytest.skip('this gcloud cannot check commands')
  verdicts = json.loads(answer.stdout)
  assert len(verdicts) == len(commands)
  assert [(verdict['command_string'], verdict['error_message']) for verdict in verdicts if not verdict['success']] == []


@pytest.mark.slow
def test_the_real_gcloud_takes_the_commands_when_pasted(paste, tmp_path):
  commands = paste(''.join(dry_run(title) for title in DRY_RUNS))
  assert len(commands) > 15
  check_with_gcloud(commands, tmp_path)


@pytest.mark.slow
def test_the_commands_of_the_page_can_be_pasted(paste, tmp_path):
  page = (ROOT / 'docs' / 'tpu.md').read_text()
  blocks = re.findall(r'^```sh\n(.*?)^```', page, re.M | re.S)
  commands = paste('TAR=gs://tar REPOSITORY=url HOST=host N=2 K=0 USER=me SLURM_JOB_ID=1\n' + ''.join(blocks))
  assert len(commands) > 10
  for path in re.findall(r'\b(?:configs|scripts|tests)/\w+\.\w+', page):
    assert (ROOT / path).exists(), path
  for tool in re.findall(r'-m tools\.(\w+)', page):
    assert (ROOT / 'tools' / f'{tool}.py').exists(), tool
  check_with_gcloud(commands, tmp_path)


@pytest.mark.parametrize('arguments, message', [
    (['crate'], 'unknown command crate; expected create, setup, train, watch, status, logs, stop or delete'),
    (['status', '--zone=z'], 'status needs --name='),
    (['status', '--name=b16'], 'status needs --zone='),
    (['create', '--name=b16', '--zone=z'], 'create needs --accelerator_type='),
    (['train', *SLICE, '--workdir=gs://b/w'], 'train needs --config='),
    (['train', *SLICE, '--config=c.py'], 'train needs --workdir='),
    (['create', *SLICE, '--spott'], "unknown flag --spott; expected --name=NAME, and train.py's own flags after"),
    (['create', '--name', 'b16'], 'unknown flag --name; expected --name=NAME'),
    (['watch', *SLICE, '--config=c.py', '--workdir=runs/b16'],
     'the work directory runs/b16 would be lost with the slice: --workdir=gs://BUCKET/FOLDER'),
])
def test_bad_input_is_named_with_the_fix(arguments, message):
  done = subprocess.run([ROOT / 'scripts' / 'tpu_vm.sh', *arguments], capture_output=True, text=True,
                        env={'PATH': '/usr/bin:/bin'})
  assert done.returncode == 2 and message in done.stderr and not done.stdout


@pytest.fixture
def loop(tmp_path):
  """Starts keep_training.sh on a train.py that does at each start what the next of `lives` says.

  N: exits with N, N+: so, after a checkpoint; wait: runs until it is signalled. Sleeping is cut short.
  """
  (tmp_path / 'bin').mkdir()
  executable(tmp_path / 'bin' / 'sleep', f'#!/bin/sh\necho $1 >>{tmp_path}/slept\nexec /bin/sleep 0.2\n')
  (tmp_path / 'train.py').write_text(TRAIN)

  def start(*lives, flags=()):
    (tmp_path / 'lives').write_text(' '.join(lives))
    return subprocess.Popen(
        [ROOT / 'scripts' / 'keep_training.sh', *flags, sys.executable, 'train.py', f'--workdir={tmp_path}/run'],
        cwd=tmp_path, text=True, stderr=subprocess.PIPE,
        env={**os.environ, 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'LIVES': str(tmp_path / 'lives')})

  return start


TRAIN = '''
import os, pathlib, signal, sys, time
lives = pathlib.Path(os.environ['LIVES'])
now, *later = lives.read_text().split()
lives.write_text(' '.join(later))
print('train.py lives:', now, *sys.argv[1:], file=sys.stderr, flush=True)
if now == 'wait':
  signals, end = [], time.monotonic() + 120
  signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
  pathlib.Path('starting').write_text(str(os.getpid()))
  os.rename('starting', 'waiting')  # whole from the first moment
  while not signals and time.monotonic() < end:
    time.sleep(0.01)
  pathlib.Path('signalled').touch()
  time.sleep(0.3)
  print('signals:', len(signals), file=sys.stderr)
  sys.exit(75 if signals else 1)
if now.endswith('+'):
  workdir = pathlib.Path(next(word for word in sys.argv if word.startswith('--workdir=')).removeprefix('--workdir='))
  (workdir / 'interrupted' / str(100 - len(later))).mkdir(parents=True)
code = int(now.rstrip('+'))
os.kill(os.getpid(), code - 128) if code > 128 else sys.exit(code)
'''


def until(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_training_starts_again_until_it_has_finished(loop, tmp_path):
  running = loop('75+', '75', '134', '0', '0', flags=['--wait=7'])
  output = running.communicate()[1]
  assert running.returncode == 0
  assert output.count('train.py lives:') == 4 and (tmp_path / 'lives').read_text() == '0'
  assert (tmp_path / 'slept').read_text() == '7\n'  # after 134 alone
  assert 'ended with exit code 134; the latest checkpoint: 96' in output and 'train.py has finished' in output


@pytest.mark.parametrize('code', [1, 2])
def test_an_error_that_would_come_again_ends_the_loop(loop, tmp_path, code):
  running = loop(str(code), '0')
  assert f'train.py ended with exit code {code}, an error that a restart would repeat' in running.communicate()[1]
  assert running.returncode == code and (tmp_path / 'lives').read_text() == '0'


@needs_flock
def test_without_a_new_checkpoint_it_gives_up(loop, tmp_path):
  running = loop('75', '134', '75+', '75', '75', '139', '75', flags=['--tries=4', f'--state={tmp_path}/state'])
  output = running.communicate()[1]
  assert 'gave up after 4 starts without a new checkpoint' in output
  assert running.returncode == 139 and (tmp_path / 'lives').read_text() == '75'
  assert (tmp_path / 'state' / 'exit_code').read_text() == '139\n'


@needs_flock
def test_a_signal_reaches_training_once_and_ends_the_loop(loop, tmp_path):
  running = loop('wait', '0', flags=[f'--state={tmp_path}/state'])
  until((tmp_path / 'waiting').exists)
  running.send_signal(signal.SIGTERM)
  until((tmp_path / 'signalled').exists)
  running.send_signal(signal.SIGTERM)
  output = running.communicate()[1]
  assert 'signals: 1\n' in output and 'stopped by a signal; train.py ended with exit code 75' in output
  assert 'the latest checkpoint' not in output  # time may be too short to look
  assert running.returncode == 75 and (tmp_path / 'lives').read_text() == '0'
  assert not (tmp_path / 'state' / 'exit_code').exists()  # it was stopped


def test_a_machine_that_shuts_down_signals_training_itself(loop, tmp_path):
  executable(tmp_path / 'bin' / 'systemctl', '#!/bin/sh\necho stopping\n')
  running = loop('wait', '0')
  until((tmp_path / 'waiting').exists)
  running.send_signal(signal.SIGTERM)
  os.kill(int((tmp_path / 'waiting').read_text()), signal.SIGTERM)
  assert 'signals: 1\n' in running.communicate()[1] and running.returncode == 75


@needs_flock
def test_a_second_loop_in_the_same_place_is_refused(loop, tmp_path):
  first = loop('wait', flags=[f'--state={tmp_path}'])
  until((tmp_path / 'waiting').exists)
  second = loop('0', flags=[f'--state={tmp_path}'])
  assert f'a loop is already running: {tmp_path}/lock is locked' in second.communicate()[1] and second.returncode == 2
  first.terminate()
  assert first.wait() == 75


def test_a_loop_without_a_work_directory_says_what_it_is_for():
  done = subprocess.run([ROOT / 'scripts' / 'keep_training.sh', 'python', 'train.py'], capture_output=True, text=True)
  assert done.returncode == 2 and 'the command has no --workdir=' in done.stderr


# A jax that finds a TPU.
JAX = '''
import types
distributed = types.SimpleNamespace(initialize=lambda: None)
process_index, process_count, local_device_count, device_count = lambda: 0, lambda: 2, lambda: 8, lambda: 16
devices = lambda: [types.SimpleNamespace(device_kind='TPU v5 lite')]
'''


@pytest.fixture
def cloud(tmp_path):
  """Runs tpu_vm.sh against fake_gcloud.py; the workers run what they get, with a fake uv, jax and train.py."""
  folder, bin, repo = tmp_path / 'cloud', tmp_path / 'bin', tmp_path / 'repo'
  for path in (folder, bin, repo):
    path.mkdir()
  executable(bin / 'sleep', f'#!/bin/sh\necho $1 >>{folder}/slept\nexec /bin/sleep 0.3\n')
  executable(bin / 'gcloud', f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/fake_gcloud.py "$@"\n')
  # What pip installs is a uv that makes an environment with this Python.
  executable(bin / 'python3', f'#!/bin/sh\nmkdir -p $HOME/.local/bin && cp {bin}/uv $HOME/.local/bin/uv\n')
  executable(bin / 'uv', f'#!/bin/sh\necho "$@" >>$HOME/uv\nmkdir -p venv/bin && cp {bin}/python venv/bin/\n'
             'echo PATH=$PWD/venv/bin:$PATH >venv/bin/activate\n')
  executable(bin / 'python', f'#!/bin/sh\nPYTHONPATH={bin} exec {sys.executable} "$@"\n')
  (bin / 'jax.py').write_text(JAX)
  (repo / 'train.py').write_text(TRAIN)
  shutil.copytree(ROOT / 'scripts', repo / 'scripts')
  for arguments in (['init', '--quiet'], ['add', '.'],
                    ['-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '--quiet', '-m', 'code']):
    subprocess.run(['git', '-C', repo, *arguments], check=True)

  def run(command, *flags, lives=('wait',), code=0):
    if command in ('create', 'watch'):
      (folder / 'lives').write_text('\n'.join(lives))
    (folder / 'calls').unlink(missing_ok=True)
    done = subprocess.run(
        [ROOT / 'scripts' / 'tpu_vm.sh', command, *SLICE, *RUN, f'--repo={repo}', *flags], text=True, timeout=120,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'PATH': f'{bin}:{os.environ["PATH"]}', 'CLOUD': str(folder)})
    assert done.returncode == code, done.stdout
    return done.stdout

  run.folder = folder
  run.calls = lambda: [' '.join(json.loads(line)[2:4]) for line in (folder / 'calls').read_text().splitlines()]
  yield run
  for pid in folder.glob('worker-*/mixer/pid'):
    subprocess.run(['kill', pid.read_text().strip()], stderr=subprocess.DEVNULL)


def test_a_slice_is_created_once(cloud):
  assert 'b16: READY' in cloud('create')
  assert 'tpu-vm create' in cloud.calls()
  assert 'b16 already exists, READY' in cloud('create')
  assert 'tpu-vm create' not in cloud.calls()


def test_a_queued_slice_is_waited_for(cloud):
  output = cloud('create', '--queued')
  assert [state for state in ('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE') if f'b16: {state}' in output] == [
      'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
  assert (cloud.folder / 'slept').read_text() == '30\n30\n'


@pytest.mark.parametrize('state, kind', [('FAILED', 'queue'), ('PREEMPTED', 'node')])
def test_a_slice_that_will_not_come_back_is_an_error_with_the_fix(cloud, state, kind):
  (cloud.folder / kind).write_text(state)
  output = cloud('create', code=2)
  assert f'b16 is {state} and cannot be used any more; remove it with scripts/tpu_vm.sh delete' in output
  assert f'gcloud compute tpus {"queued-resources" if kind == "queue" else "tpu-vm"} describe b16' in output


@needs_flock
def test_from_creation_to_training_and_deletion(cloud):
  cloud('create')
  assert cloud('status').count('new\n') == 2
  assert 'worker 0 of 2 sees 8 of the 16 TPU v5 lite' in cloud('setup')
  assert '--editable code[tpu] -c code/requirements.lock' in (cloud.folder / 'worker-1' / 'uv').read_text()
  assert cloud('status').count('stopped | ') == 2
  assert cloud('train', '--env=A=1 2', '--', "--config.x=it's", '--config.y=2').count('running | ') == 2
  until(lambda: (cloud.folder / 'worker-1' / 'mixer' / 'code' / 'waiting').exists())
  log = (cloud.folder / 'worker-1' / 'mixer' / 'log').read_text()
  assert f"train.py lives: wait --distributed {' '.join(RUN)} --config.x=it's --config.y=2" in log
  assert cloud('train').count('running | ') == 2  # nothing starts twice
  assert (cloud.folder / 'worker-1' / 'mixer' / 'log').read_text() == log
  assert 'train.py is running; stop it first' in cloud('setup', code=3)
  assert cloud('stop').count('ended with exit code 75 | ') == 2
  assert 'signals: 1\n' in (cloud.folder / 'worker-1' / 'mixer' / 'log').read_text()
  cloud('delete')
  assert cloud.calls()[-1] == 'tpu-vm delete' and 'b16: does not exist' in cloud('status')
  assert 'b16 does not exist in us-central1-a' in cloud('delete')


def test_a_worker_that_does_not_answer_is_asked_again(cloud):
  cloud('create')
  (cloud.folder / 'broken').write_text('2')
  assert 'failed with exit code 255 (attempt 2 of 3)' in cloud('setup')
  (cloud.folder / 'broken').write_text('3')
  cloud('setup', code=255)


def test_a_local_work_directory_is_refused_where_several_workers_would_share_it(cloud):
  cloud('create')
  output = cloud('train', '--workdir=/runs/b16', code=2)
  assert "the work directory /runs/b16 is on a worker's own disk, and b16 has 2 workers" in output
  assert '--workdir=gs://BUCKET/FOLDER' in output


@pytest.fixture
def meanwhile(cloud):
  """Runs a function when train.py lives on both workers."""
  waiting = [cloud.folder / f'worker-{worker}' / 'mixer' / 'code' / 'waiting' for worker in range(2)]
  threads = []

  def run(function):
    threads.append(threading.Thread(target=lambda: (until(lambda: all(path.exists() for path in waiting)), function())))
    threads[-1].start()

  yield run
  threads[0].join()


def kill(cloud, files, number):
  for pid in cloud.folder.glob(f'worker-*/mixer/{files}'):
    os.kill(int(pid.read_text()), number)


@pytest.mark.slow
@needs_flock
def test_the_watch_resumes_after_a_preemption(cloud, meanwhile):
  (cloud.folder / 'broken').write_text('1')
  meanwhile(lambda: (kill(cloud, 'pid', signal.SIGTERM), (cloud.folder / 'queue').write_text('SUSPENDING SUSPENDED')))
  output = cloud('watch', '--queued', '--spot', lives=['wait', '0'])
  assert 'b16 is SUSPENDED, and is created again' in output
  assert 'train.py has finished; delete the slice with scripts/tpu_vm.sh delete' in output
  calls = [call.split()[1] for call in cloud.calls() if 'list' not in call]
  create, delete = [number for number, call in enumerate(calls) if call == 'create'], calls.index('delete')
  assert len(create) == 2 and create[0] < delete < create[1]
  assert f'train.py lives: 0 --distributed {" ".join(RUN)}' in (cloud.folder / 'worker-0' / 'mixer' / 'log').read_text()


@needs_flock
def test_the_watch_starts_what_was_killed_and_ends_at_an_error(cloud, meanwhile):
  meanwhile(lambda: (kill(cloud, 'pid', signal.SIGKILL), kill(cloud, 'code/waiting', signal.SIGKILL)))
  output = cloud('watch', lives=['wait 1'], code=2)
  assert output.count('ended with exit code 1 | ') >= 2 and 'train.py failed' in output
  assert cloud.calls().count('tpu-vm create') == 1
