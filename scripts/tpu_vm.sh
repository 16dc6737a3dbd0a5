#!/usr/bin/env bash
# Trains on Cloud TPU VMs: creates a slice, sets it up, starts train.py on all of its workers and keeps it running.
# docs/tpu.md is a walkthrough.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: scripts/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [FLAGS] [-- FLAGS OF train.py]

  create  creates the slice, and waits until it is ready
  setup   installs Python, the packages and this code on all of its workers, and checks that each sees its TPU
  train   starts train.py on all workers, in a loop that outlives the connection (scripts/keep_training.sh)
  watch   keeps running here: create, setup and train, and again with the same work directory whenever the slice is
          preempted, until train.py has finished
  status  the state of the slice, and each worker's last line
  logs    follows the log of worker 0
  stop    makes train.py on all workers save a checkpoint and end
  delete  deletes the slice; without `stop` first, the steps since the latest checkpoint are lost

All commands accept all flags, so that one variable can hold them:

  --name=NAME              of the slice, and of its queued resource
  --zone=ZONE              default: $CLOUDSDK_COMPUTE_ZONE
  --project=PROJECT        default: gcloud's own
  --accelerator_type=TYPE  v3-32, v5litepod-16, ...
  --runtime_version=NAME   default: the one for JAX on that type
  --spot                   a cheaper slice that may be preempted at any time
  --queued                 waits in Google's queue for a slice, rather than failing if none is available
  --create_flag=FLAG       one more flag for gcloud's create, as --create_flag=--network=NAME; may come several times
  --repo=URL               where workers clone the code from; default: this checkout is copied
  --commit=COMMIT          which code: a commit, branch or tag; default: HEAD
  --config=FILE            train.py's
  --workdir=FOLDER         train.py's; in a bucket, gs://BUCKET/FOLDER, unless the slice has only one worker
  --env=NAME=VALUE         for train.py, as --env=LIBTPU_INIT_ARGS=...; may come several times
  --worker=K               whose log to follow
  --dry_run                prints the commands, to be pasted, and runs none
END
}

say() { echo "tpu_vm.sh: $*" >&2; }
die() { say "$*"; exit 2; }
note() { [[ ! $dry_run ]] || echo "# $*"; }
trap 'exit 130' INT  # gcloud reports Ctrl-C as an error, which would be retried

# Prints words quoted for a shell.
quote() {
  local word flag line='' escaped="'\\''"
  for word; do
    flag=''
    if [[ $word =~ ^--[a-z_-]+= ]]; then
      flag=${BASH_REMATCH[0]}
      word=${word#"$flag"}
    fi
    if [[ ! $word =~ ^[A-Za-z0-9@%+=:,./_-]+$ ]]; then
      word="'${word//\'/$escaped}'"
    fi
    line+=" $flag$word"
  done
  echo "${line# }"
}

run() {
  if [[ $dry_run ]]; then
    quote "$@"
  else
    say "$(quote "$@")"
    "$@"
  fi
}

# Runs a command that needs the workers; a new machine may not answer at once.
reach() {
  local try code
  for try in 1 2 3; do
    code=0
    run "$@" || code=$?
    [[ $code != 0 && $code != 3 ]] || return "$code"  # 3 is worker.sh's own refusal
    say "failed with exit code $code (attempt $try of 3)"
    sleep 20
  done
  return "$code"
}

on_workers() {
  reach gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

need() {
  local flag
  for flag; do
    [[ ${!flag} ]] || die "$command needs --$flag=...; scripts/tpu_vm.sh help says what it is"
  done
}

# Sets `kind` and `state` to those of the queued resource of this name, or else of the slice; empty if neither exists.
# A slice is ready if its queued resource is ACTIVE, or the slice itself READY.
read_state() {
  local list=(list "${where[@]}" --filter="name~/$name\$")
  state='' kind=''
  if [[ $dry_run ]]; then
    note 'the state of the queued resource of this name, or else of the slice:'
    run gcloud compute tpus queued-resources "${list[@]}" --format='value(state.state)'
    run gcloud compute tpus tpu-vm "${list[@]}" --format='value(state)'
    return
  fi
  state=$(gcloud compute tpus queued-resources "${list[@]}" --format='value(state.state)') || return
  kind='queued-resources'
  if [[ ! $state ]]; then
    state=$(gcloud compute tpus tpu-vm "${list[@]}" --format='value(state)') || return
    kind=tpu-vm
  fi
}

do_create() {
  need accelerator_type
  local flags=(${spot:+--spot} ${create_flags[@]+"${create_flags[@]}"})
  read_state
  note 'if neither exists:'
  if [[ $state ]]; then
    say "$name already exists, $state"
  elif [[ $queued ]]; then
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
      --accelerator-type="$accelerator_type" --runtime-version="$runtime_version" ${flags[@]+"${flags[@]}"}
  else
    run gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
      --accelerator-type="$accelerator_type" --version="$runtime_version" ${flags[@]+"${flags[@]}"}
  fi
  note 'every 30 s, until one is ACTIVE or READY:'
  local before=''
  while :; do
    read_state || state=UNKNOWN
    [[ ! $dry_run ]] || return 0
    [[ $state == "$before" ]] || say "$(date +%T) $name: ${state:-not created yet}"
    before=$state
    case $state in
      ACTIVE | READY) return ;;
      FAILED | SUSPENDING | SUSPENDED | PREEMPTED | TERMINATED | STOPPED)
        die "$name is $state and cannot be used any more; remove it with scripts/tpu_vm.sh delete. The reason:" \
          "$(quote gcloud compute tpus "$kind" describe "$name" "${where[@]}")" ;;
    esac
    sleep 30
  done
}

do_setup() {
  local fetch
  if [[ $repo ]]; then
    fetch="git clone --quiet $(quote "$repo") mixer/code && git -C mixer/code checkout --quiet $(quote "$commit")"
  else
    local archive=runs/code-$name.tar.gz
    [[ $dry_run || -z $(git status --porcelain) ]] || say 'uncommitted changes are not copied'
    run mkdir -p runs
    run git archive --format=tar.gz --output="$archive" "$commit"
    reach gcloud compute tpus tpu-vm scp "$archive" "$name:code.tar.gz" "${where[@]}" --worker=all
    fetch='mkdir mixer/code && tar -xzf code.tar.gz -C mixer/code'
  fi
  on_workers all "mkdir -p mixer
flock --nonblock mixer/lock rm -rf mixer/ready mixer/code || { echo 'train.py is running; stop it first' >&2; exit 3; }
$fetch && mixer/code/scripts/worker.sh install"
  on_workers all 'mixer/code/scripts/worker.sh check'
}

do_train() {
  need config workdir
  if [[ $workdir != gs://* ]]; then
    local workers='' count=(gcloud compute tpus tpu-vm describe "$name" "${where[@]}"
                            --format='value(networkEndpoints.len())')
    if [[ $dry_run ]]; then
      note 'the number of workers; with more than one this work directory is refused:'
      run "${count[@]}"
    else
      workers=$("${count[@]}")
      [[ $workers == 1 ]] || die "the work directory $workdir is on a worker's own disk, and $name has $workers" \
        'workers, which must all see it: --workdir=gs://BUCKET/FOLDER'
    fi
  fi
  on_workers all "$(quote ${environment[@]+env "${environment[@]}"} mixer/code/scripts/worker.sh start \
    python train.py --distributed --config="$config" --workdir="$workdir" ${train_flags[@]+"${train_flags[@]}"})"
}

do_watch() {
  need accelerator_type config workdir
  [[ $workdir == gs://* ]] || die "the work directory $workdir would be lost with the slice:" \
    '--workdir=gs://BUCKET/FOLDER'
  if [[ $dry_run ]]; then
    local step
    note 'every minute:'
    read_state
    for step in 'delete: if it was preempted or has failed' 'create: if it does not exist' 'status: if it exists' \
                'stop: if a worker is new, so that all start together' 'setup: then' \
                'train: then, or if it has stopped on a worker'; do
      printf '\n# %s\n' "$step"
      scripts/tpu_vm.sh "${step%%:*}" "${arguments[@]}"
    done
    return
  fi
  # Failures are retried a minute later; without a slice, that costs nothing.
  while :; do
    read_state || state=UNKNOWN
    case $state in
      ACTIVE | READY) start_where_needed ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED)
        say "$(date +%T) $name is $state, and is created again"
        scripts/tpu_vm.sh delete "${arguments[@]}" ;;
      SUSPENDING | DELETING | UNKNOWN) ;;
      *) scripts/tpu_vm.sh create "${arguments[@]}" ;;
    esac || say "$(date +%T) failed; retrying in a minute"
    sleep 60
  done
}

# Exits when train.py has ended on all workers.
start_where_needed() {
  local workers
  workers=$(scripts/tpu_vm.sh status "${arguments[@]}" 2>/dev/null) || return
  case $workers in
    *$'\nnew'*)
      scripts/tpu_vm.sh stop "${arguments[@]}" && scripts/tpu_vm.sh setup "${arguments[@]}" \
        && scripts/tpu_vm.sh train "${arguments[@]}" ;;
    *$'\nstopped'*) scripts/tpu_vm.sh train "${arguments[@]}" ;;
    *$'\nrunning'*) ;;
    *$'\nended with exit code '[1-9]*)
      echo "$workers"
      die "train.py failed; scripts/tpu_vm.sh logs shows why, train restarts it, delete deletes the slice" ;;
    *$'\nended'*)
      echo "$workers"
      say 'train.py has finished; delete the slice with scripts/tpu_vm.sh delete'
      exit ;;
  esac
}

do_status() {
  read_state
  [[ $dry_run ]] || echo "$name: ${state:-does not exist}"
  [[ $dry_run || $state == ACTIVE || $state == READY ]] || return 0
  on_workers all 'mixer/code/scripts/worker.sh status 2>/dev/null || echo new'
}

do_logs() {
  on_workers "$worker" 'tail -n 100 -F mixer/log'
}

do_stop() {
  on_workers all '[ ! -e mixer/ready ] || mixer/code/scripts/worker.sh stop'
}

do_delete() {
  read_state
  note 'whichever of them exists:'
  if [[ $kind == queued-resources || $dry_run ]]; then
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
  fi
  if [[ $kind == tpu-vm && $state || $dry_run ]]; then
    run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
  fi
  [[ $state || $dry_run ]] || say "$name does not exist in $zone"
}

command=${1:-help}
case $command in
  create | setup | train | watch | status | logs | stop | delete) shift ;;
  help | -h | --help) usage; exit ;;
  *) die "unknown command $command; expected create, setup, train, watch, status, logs, stop or delete; scripts/tpu_vm.sh help" ;;
esac
arguments=("$@")
name='' zone=${CLOUDSDK_COMPUTE_ZONE:-} project='' accelerator_type='' runtime_version='' spot='' queued=''
create_flags=() repo='' commit=HEAD config='' workdir='' environment=() worker=0 dry_run='' train_flags=()
while (($#)); do
  case $1 in
    --name=* | --zone=* | --project=* | --accelerator_type=* | --runtime_version=* | --repo=* | --commit=* | \
    --config=* | --workdir=* | --worker=*)
      flag=${1%%=*}
      printf -v "${flag#--}" %s "${1#*=}" ;;
    --spot | --queued | --dry_run) printf -v "${1#--}" yes ;;
    --create_flag=*) create_flags+=("${1#*=}") ;;
    --env=*=*) environment+=("${1#*=}") ;;
    --) shift; train_flags=("$@"); break ;;
    *) die "unknown flag $1; expected --name=NAME, and train.py's own flags after a --; scripts/tpu_vm.sh help" ;;
  esac
  shift
done
need name zone
where=(--zone="$zone" ${project:+--project="$project"})
if [[ ! $runtime_version ]]; then
  case $accelerator_type in
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    *) runtime_version=tpu-ubuntu2204-base ;;
  esac
fi
"do_$command"
