#!/usr/bin/env bash
# Train on GPUs of a SLURM cluster, with one process per node that uses all GPUs of the node.
#
#   launch/slurm_gpu.sh --nodes 1 --gpus 8 --time 24:00:00 [options] -- \
#       --config=configs/stage1_dit.py --workdir=runs/stage1 --config.data.path=...
#
# The arguments after -- are passed to `python -m ttm_jax.train`. It runs in the current folder,
# which must be shared by all nodes, with the Python of the current environment. Options (defaults):
#
#   --nodes N            number of nodes (1)
#   --gpus N             GPUs per node, N or TYPE:N (8)
#   --time T             time limit of the job; required
#   --name NAME          job name (ttm_jax)
#   --partition P, --account A    if the cluster requires them
#   --grace S            seconds before the time limit at which the run saves and exits (300)
#   --dry-run            print the job script without submitting it
#
# The job is requeued at its time limit, when it is preempted and when a node or process fails (until
# the 100th restart); it then resumes the run.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=checks.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/checks.sh"

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
}

name=ttm_jax nodes=1 gpus=8 time='' partition='' account='' grace=300 dry=''
while (($#)); do
  case $1 in
    --dry-run) dry=1; shift; continue ;;
    --) shift; break ;;
  esac
  (($# >= 2)) || usage
  case $1 in
    --name) name=$2 ;;
    --nodes) nodes=$2 ;;
    --gpus) gpus=$2 ;;
    --time) time=$2 ;;
    --partition) partition=$2 ;;
    --account) account=$2 ;;
    --grace) grace=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ $time && $# -gt 0 ]] || usage
# These become lines of the job script, so they must not contain line ends or "$".
check_name --name "$name"
check --nodes "$nodes" '[0-9]{1,6}(-[0-9]{1,6})?' 'a number of nodes'
check --gpus "$gpus" '([A-Za-z0-9_.-]+:)?[0-9]{1,4}' 'a number, or TYPE:NUMBER'
check_number --grace "$grace"
check --time "$time" '([0-9]+-)?[0-9]+(:[0-9]+){0,2}|[A-Za-z]+' \
  'a time as SLURM has it, such as 24:00:00'
[[ ! $partition ]] || check_word --partition "$partition"
[[ ! $account ]] || check_word --account "$account"
check_arguments "$@"
[[ " $*" == *' --workdir='* ]] ||
  { echo 'error: give a --workdir=..., which all nodes and the next start can reach' >&2; exit 2; }

python=$(command -v python || echo python)
check_arguments "$python"
train=$(printf ' %q' "$python" -m ttm_jax.train "$@")
more=''
[[ $partition ]] && more+="#SBATCH --partition=$partition"$'\n'
[[ $account ]] && more+="#SBATCH --account=$account"$'\n'
script=$(cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --exclusive
#SBATCH --time=$time
#SBATCH --signal=B:TERM@$grace
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$name-%j.log
$more
# SIGTERM arrives $grace seconds before the time limit, or on preemption; the run then saves.
stopped=''
trap 'stopped=1; scancel --signal=TERM "\$SLURM_JOB_ID.0"' TERM
srun --kill-on-bad-exit=1 --label$train &
process=\$!
code=0
wait "\$process" || code=\$?
while kill -0 "\$process" 2>/dev/null; do
  code=0
  wait "\$process" || code=\$?
done
# Another attempt does not fix user errors (2), nor NaN, Inf or spiking losses (3). Other codes: a
# process was lost (134, 137, ...) or hangs. Requeue the job, possibly on other nodes.
if [[ \$stopped ]] || ((code != 0 && code != 2 && code != 3 && \${SLURM_RESTART_COUNT:-0} < 100)); then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
EOF
)

if [[ $dry ]]; then
  echo "$script"
else
  sbatch <<<"$script"
fi
