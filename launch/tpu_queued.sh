#!/usr/bin/env bash
# Train on TPU VMs of Compute Engine, through queued resources.
#
#   launch/tpu_queued.sh --name NAME --type v5litepod-16 --zone ZONE --image IMAGE [options] -- \
#       --config=configs/stage1_dit.py --workdir=gs://BUCKET/runs/NAME --config.data.path=...
#
# The arguments after -- are passed to `python -m ttm_jax.train`, in the container, on every VM.
# Options (defaults):
#
#   --project P     Google Cloud project (that of the gcloud configuration)
#   --spot          use spot VMs, which may be preempted
#   --attempts N    maximum number of attempts; preempted VMs are requested again (10)
#   --keep          do not delete the VMs at the end
#   --dry-run       print the commands without running them
#
# The script requests the VMs unless they exist, waits for them, trains, and deletes them.
# Running it again resumes the run.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=checks.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/checks.sh"

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
}

name='' type='' zone='' image='' project='' spot='' attempts=10 keep='' dry=''
while (($#)); do
  case $1 in
    --dry-run) dry=1; shift; continue ;;
    --spot) spot=1; shift; continue ;;
    --keep) keep=1; shift; continue ;;
    --) shift; break ;;
  esac
  (($# >= 2)) || usage
  case $1 in
    --name) name=$2 ;;
    --type) type=$2 ;;
    --zone) zone=$2 ;;
    --image) image=$2 ;;
    --project) project=$2 ;;
    --attempts) attempts=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ $name && $type && $zone && $image && $# -gt 0 ]] || usage
[[ " $*" == *' --workdir=gs://'* ]] ||
  { echo 'error: give a --workdir=gs://..., which all machines and the next start can reach' >&2; exit 2; }
check_name --name "$name"
check_word --type "$type"
check_word --zone "$zone"
check_word --image "$image"
[[ ! $project ]] || check_word --project "$project"
check_number --attempts "$attempts"
check_arguments "$@"
case $type in
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *) echo "error: --type $type is unknown: give v5litepod-N, v5p-N or v6e-N" >&2; exit 2 ;;
esac

place=("--zone=$zone")
[[ $project ]] && place+=("--project=$project")
request=(
  gcloud compute tpus queued-resources create "$name" "${place[@]}"
  "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime"
)
[[ $spot ]] && request+=(--spot)
describe=(
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" '--format=value(state.state)'
)
remove=(
  gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
)
# Remove a container left by an earlier attempt first, because it would hold the chips.
#
# The container is privileged: as root, libtpu opens /dev/accel* or /dev/vfio/* (by TPU type) and
# locks memory for transfers. We know of no smaller set of capabilities that works on all types. The
# container thus has all rights of its VM. The VM should run nothing else, use a service account
# with access to the buckets of the run only, and be in a private network. On GKE (tpu_xpk.sh) a
# device plugin gives containers access to the chips.
inside="sudo docker rm -f ttm_jax >/dev/null 2>&1; sudo docker run --rm --name ttm_jax --privileged"
inside+=" --user=0 --net=host --stop-timeout 60 $(printf '%q ' "$image" python -m ttm_jax.train "$@")"
train=(
  gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all "--command=$inside"
)

show() {
  printf '%q ' "$@"
  echo
}

if [[ $dry ]]; then
  show "${describe[@]}"
  show "${request[@]}"
  show "${train[@]}"
  [[ $keep ]] || show "${remove[@]}"
  exit
fi

state() {
  "${describe[@]}" 2>/dev/null || echo NONE
}

wait_for_machines() {
  while true; do
    case $(state) in
      ACTIVE) return ;;
      NONE) "${request[@]}" ;;
      FAILED | SUSPENDED) "${remove[@]}" ;;
    esac
    sleep 30
  done
}

code=1
for ((attempt = 1; attempt <= attempts; attempt++)); do
  wait_for_machines
  code=0
  "${train[@]}" || code=$?
  # Another attempt does not fix user errors (2), nor NaN, Inf or spiking losses (3).
  ((code == 0 || code == 2 || code == 3)) && break
  echo "attempt $attempt of $attempts ended with $code" >&2
done
[[ $keep ]] || "${remove[@]}"
exit "$code"
