#!/usr/bin/env bash
# What scripts/tpu_vm.sh runs on each worker of a slice. The worker's files are in ~/mixer: this code in code, venv,
# log, ready (set up) and those that scripts/keep_training.sh writes.
#
#   worker.sh install           installs Python and the packages
#   worker.sh check             mounts the data disk, if one is attached, and checks that all workers together see their
#                               TPUs; it waits for the others
#   worker.sh start COMMAND...  starts the command in a loop that outlives the connection, unless it is running
#   worker.sh status            one line: new, stopped, running or ended; the host; the last line of the log
#   worker.sh stop              makes train.py save and end, and waits for that
set -euo pipefail
cd "$(dirname "$0")/../.."

DISK=/dev/disk/by-id/google-persistent-disk-1  # the first that was passed to `create`
DATA=/mnt/data

runs() { ! flock --nonblock lock true; }

install() {
  # The images have Python 3.10. uv finds a newer one or fetches it, needs no root, and is pinned as the packages are.
  python3 -m pip install --quiet --user uv==0.13.9
  local uv=$HOME/.local/bin/uv
  "$uv" venv --quiet --allow-existing --python '>=3.11,<3.14' venv
  "$uv" pip install --quiet --python venv --editable 'code[tpu]' -c code/requirements.lock
}

mount_data() {
  if [[ -e $DISK ]] && ! mountpoint --quiet $DATA; then
    sudo mkdir -p $DATA
    sudo mount -o ro,noload $DISK $DATA
  fi
}

check() {
  mount_data
  JAX_PLATFORMS=tpu timeout 300 venv/bin/python - <<'END'
import jax
jax.distributed.initialize()
print(f'worker {jax.process_index()} of {jax.process_count()} sees {jax.local_device_count()} of the '
      f'{jax.device_count()} {jax.devices()[0].device_kind}')
END
  touch ready
}

start() {
  if ! runs; then
    mount_data  # after a reboot it is not
    # shellcheck source=/dev/null
    source venv/bin/activate
    cd code
    nohup scripts/keep_training.sh --state=.. "$@" >>../log 2>&1 </dev/null &
    cd ..
    sleep 5  # time to fail
  fi
  status
}

status() {
  local state=stopped
  if [[ ! -e ready ]]; then
    state=new
  elif runs; then
    state=running
  elif [[ -e exit_code ]]; then
    state="ended with exit code $(<exit_code)"
  fi
  echo "$state | $(hostname) | $(tail --lines=1 log 2>/dev/null)"
}

stop() {
  if runs; then
    kill -TERM "$(<pid)"
    if ! flock --wait 900 lock true; then
      echo "train.py is still running on $(hostname), 15 minutes after SIGTERM" >&2
      exit 3
    fi
    [[ -e exit_code ]] || echo 75 >exit_code  # it will not restart
  fi
  status
}

"$@"
