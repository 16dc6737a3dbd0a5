#!/usr/bin/env bash
# Restarts train.py until it has finished: after a preemption, the loss of another machine, a crash.
#
#   scripts/keep_training.sh python train.py --config=configs/mixer_b16_i21k.py --workdir=/runs/b16
#
# With several machines, run one on each. What happens next depends on train.py's exit code:
#   0               finished: the loop ends
#   75              preempted, state saved: restarts immediately
#   1, 2, 126, 127  an error that a restart would repeat, or unknown command: the loop ends with that code
#   others          another process was lost (76), killed, crashed: restarts after --wait=SECONDS (20), in which the
#                   remaining processes end
# After --tries=N (10) such exits in a row at the same checkpoint the loop gives up, with the last exit code. SIGTERM,
# SIGINT and SIGHUP are forwarded to train.py as one SIGTERM, so that it saves, and then end the loop with train.py's
# exit code. A second SIGTERM would make train.py exit at once: do not run the loop under a manager that signals all
# processes itself (srun).
#
# These flags come before the command. --state=FOLDER allows one loop only (FOLDER/lock is locked while it or its
# train.py runs), writes its process id to FOLDER/pid, and its exit code to FOLDER/exit_code, unless a signal ended it.
set -euo pipefail

say() { echo "keep_training.sh, $(date -u +%FT%TZ): $*" >&2; }
die() { say "$*"; exit 2; }

tries=10 wait=20 state=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --tries=*) tries=${1#*=} ;;
    --wait=*) wait=${1#*=} ;;
    --state=*) state=${1#*=} ;;
    *) die "unknown flag $1; --tries=N, --wait=SECONDS and --state=FOLDER come before the command, train.py's flags in it" ;;
  esac
  shift
done
workdir=
for word; do
  [[ $word != --workdir=* ]] || workdir=${word#*=}
done
[[ $workdir ]] || die "the command has no --workdir=, whose checkpoints show whether the run makes progress; for example" \
  "scripts/keep_training.sh python train.py --config=configs/mixer_digits.py --workdir=runs/digits"

if [[ $state ]]; then
  mkdir -p "$state"
  exec 9>"$state/lock"  # train.py inherits it
  flock --nonblock 9 || die "a loop is already running: $state/lock is locked"
  echo $$ >"$state/pid"
  rm -f "$state/exit_code"
fi

child='' forwarded='' stopping='' signalled=''
forward_signal() {
  if [[ $child && ! $forwarded ]]; then
    forwarded=yes
    # When the machine shuts down, as in a preemption, systemd signals all processes itself.
    [[ $(systemctl is-system-running 2>/dev/null) == stopping ]] || kill -TERM "$child" 2>/dev/null || true
  fi
}
trap 'stopping=yes signalled=yes; forward_signal' TERM INT HUP

# Runs a command to its end and sets `code`.
run() {
  "$@" &
  child=$!
  [[ -z $stopping ]] || forward_signal  # it arrived while the command was being started
  while :; do
    signalled=
    code=0
    wait "$child" || code=$?
    # A signal to this shell ends `wait` early, with a code above 128.
    [[ $signalled && $code -gt 128 ]] || break
  done
  child='' forwarded=''
}

# Prints the step of the latest checkpoint, on a disk or in a bucket.
latest_checkpoint() {
  TF_CPP_MIN_LOG_LEVEL=3 "$1" - "$workdir" <<'END' || echo unknown
import sys
from etils import epath
folders = [epath.Path(sys.argv[1]).expanduser() / name for name in ('checkpoints', 'interrupted')]
print(max((int(path.name) for folder in folders if folder.exists() for path in folder.iterdir()
           if path.name.isdecimal()), default='none'))
END
}

end() {
  [[ -z $state ]] || echo "$code" >"$state/exit_code"
  say "$*"
  exit "$code"
}

at='' failures=0 code=143
until [[ $stopping ]]; do
  say "starting $*"
  run "$@"
  case $code in
    0) end 'train.py has finished' ;;
    1 | 2 | 126 | 127) end "train.py ended with exit code $code, an error that a restart would repeat; see above" ;;
  esac
  [[ -z $stopping ]] || break
  step=$(latest_checkpoint "$1")
  if [[ $step != "$at" ]]; then
    at=$step failures=0
  fi
  failures=$((failures + 1))
  say "train.py ended with exit code $code; the latest checkpoint: $step"
  ((failures < tries)) || end "gave up after $tries starts without a new checkpoint"
  if ((code != 75)); then
    sleep "$wait" 9>&- &  # in the background, so that a signal interrupts it; it does not hold the lock
    wait $! || true
  fi
done
say "stopped by a signal; train.py ended with exit code $code"
exit "$code"
