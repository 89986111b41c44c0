#!/usr/bin/env bash
# Train on TPUs of a GKE cluster, through xpk.
#
#   launch/tpu_xpk.sh --name NAME --cluster CLUSTER --type v5litepod-16 --image IMAGE [options] -- \
#       --config=configs/stage1_dit.py --workdir=gs://BUCKET/runs/NAME --config.data.path=...
#
# The arguments after -- are passed to `python -m ttm_jax.train`. Options (defaults):
#
#   --slices N      number of slices of that type, connected by DCN (1)
#   --project P, --zone Z    Google Cloud project and zone (those of the gcloud configuration)
#   --restarts N    maximum number of restarts of the whole job after failures (100)
#   --grace S       seconds between SIGTERM and the end of a preempted machine (120)
#   --dry-run       print the command without running it
#
# If a machine is lost, the others exit with code 134, and a process that hangs with 1; then the job
# restarts and resumes the run.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=checks.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/checks.sh"

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
}

name='' cluster='' type='' image='' slices=1 project='' zone='' restarts=100 grace=120 dry=''
while (($#)); do
  case $1 in
    --dry-run) dry=1; shift; continue ;;
    --) shift; break ;;
  esac
  (($# >= 2)) || usage
  case $1 in
    --name) name=$2 ;;
    --cluster) cluster=$2 ;;
    --type) type=$2 ;;
    --image) image=$2 ;;
    --slices) slices=$2 ;;
    --project) project=$2 ;;
    --zone) zone=$2 ;;
    --restarts) restarts=$2 ;;
    --grace) grace=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ $name && $cluster && $type && $image && $# -gt 0 ]] || usage
[[ " $*" == *' --workdir=gs://'* ]] ||
  { echo 'error: give a --workdir=gs://..., which all machines and the next start can reach' >&2; exit 2; }

check_name --name "$name"
check_word --cluster "$cluster"
check_word --type "$type"
check_word --image "$image"
[[ ! $project ]] || check_word --project "$project"
[[ ! $zone ]] || check_word --zone "$zone"
check_number --slices "$slices"
check_number --restarts "$restarts"
check_number --grace "$grace"
check_arguments "$@"

command=$(printf ' %q' python -m ttm_jax.train "$@")
create=(
  xpk workload create
  "--workload=$name"
  "--cluster=$cluster"
  "--tpu-type=$type"
  "--num-slices=$slices"
  "--docker-image=$image"
  "--max-restarts=$restarts"
  --restart-on-exit-codes=1 # Besides 42 and 127 to 255.
  "--termination-grace-period-seconds=$grace"
  "--command=${command# }"
)
[[ $project ]] && create+=("--project=$project")
[[ $zone ]] && create+=("--zone=$zone")

if [[ $dry ]]; then
  printf '%q ' "${create[@]}"
  echo
else
  "${create[@]}"
fi
