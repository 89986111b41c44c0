#!/usr/bin/env bash
# A run on TPU machines of Compute Engine, through queued resources.
#
#   launch/tpu_queued.sh --name NAME --type v5litepod-16 --zone ZONE --image IMAGE [options] -- \
#       --config=configs/stage1_dit.py --workdir=gs://BUCKET/runs/NAME --config.data.path=...
#
# What follows -- is given to `python -m ttm_jax.train`, in the container, on every machine. Options:
#
#   --project P     that of gcloud's configuration by default
#   --spot          machines that may be taken away
#   --attempts N    how often to begin again, with new machines where they were taken away (10)
#   --keep          leave the machines when the run is over
#   --dry-run       print what would be done
#
# It asks for the machines where they are not there yet, waits for them, runs, and gives them back.
# A new start continues the run.
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
# A container that an attempt before has left would hold the chips. These containers are privileged:
# libtpu opens the chips as /dev/accel* or /dev/vfio/*, by the type of TPU, as root, and locks memory
# for transfers; we know of no smaller set of rights that works on all types. So a container has the
# rights of its machine: that should run nothing else, have a service account that reaches only the
# buckets of the run, and lie in a private network. On GKE (tpu_xpk.sh) a device plugin gives the
# chips to containers.
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
  # What the user must mend (2), or a loss that is no number (3), another attempt does not mend.
  ((code == 0 || code == 2 || code == 3)) && break
  echo "attempt $attempt of $attempts ended with $code" >&2
done
[[ $keep ]] || "${remove[@]}"
exit "$code"
