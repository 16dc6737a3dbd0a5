"""A gcloud for tests: one slice or queued resource, whose workers are folders of this machine.

$CLOUD is its folder: `calls`, its arguments, a line a call; `node` and `queue`, the states that the slice and the
queued resource will be in at one look after another, the last one for good; `worker-K`, the workers' homes; `lives`,
what the file of that name in them shall hold, a line for each slice in turn; `broken`, how many ssh calls are to fail.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ['CLOUD'])
WORKERS = 2


def main(group, command, name, destination, flags):
  """Does one command of `gcloud compute tpus`."""
  states = CLOUD / ('queue' if group == 'queued-resources' else 'node')
  if command == 'list':
    now, *later = states.read_text().split() if states.exists() else ['']
    if later:
      states.write_text(' '.join(later))
    print(now)
  elif command == 'create':
    states.write_text('WAITING_FOR_RESOURCES PROVISIONING ACTIVE' if group == 'queued-resources' else 'CREATING READY')
    now, *later = (CLOUD / 'lives').read_text().splitlines()
    (CLOUD / 'lives').write_text('\n'.join(later))
    for worker in range(WORKERS):
      (CLOUD / f'worker-{worker}').mkdir()
      (CLOUD / f'worker-{worker}' / 'lives').write_text(now)
  elif command == 'delete':
    states.unlink()
    for home in CLOUD.glob('worker-*'):
      shutil.rmtree(home)
  elif command == 'describe':
    print(WORKERS)
  elif command == 'ssh':
    broken = CLOUD / 'broken'
    if broken.exists() and int(broken.read_text()):
      broken.write_text(str(int(broken.read_text()) - 1))
      return 255
    homes = sorted(CLOUD.glob('worker-*')) if flags['--worker'] == 'all' else [CLOUD / f'worker-{flags["--worker"]}']
    running = [subprocess.Popen(['bash', '-c', flags['--command']], cwd=home,
                                env={**os.environ, 'HOME': str(home), 'LIVES': str(home / 'lives')}) for home in homes]
    return max([process.wait() for process in running])
  elif command == 'scp':
    for home in CLOUD.glob('worker-*'):
      shutil.copy(name, home / destination.partition(':')[2])
  return 0


if __name__ == '__main__':
  with open(CLOUD / 'calls', 'a') as calls:
    calls.write(json.dumps(sys.argv[1:]) + '\n')
  assert sys.argv[1:3] == ['compute', 'tpus'], sys.argv
  group, command, *rest = sys.argv[3:]
  flags = dict(word.partition('=')[::2] for word in rest if word.startswith('--'))
  name, destination, *_ = [word for word in rest if not word.startswith('--')] + ['', '']
  sys.exit(main(group, command, name, destination, flags))
