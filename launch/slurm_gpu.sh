#!/usr/bin/env bash
# A run on GPUs of a SLURM cluster: one process a node, with all GPUs of the node.
#
#   launch/slurm_gpu.sh --nodes 1 --gpus 8 --time 24:00:00 [options] -- \
#       --config=configs/stage1_dit.py --workdir=runs/stage1 --config.data.path=...
#
# What follows -- is given to `python -m ttm_jax.train`, in the current folder, which all nodes must
# see, with the Python of the current environment. Options:
#
#   --name NAME          of the job (ttm_jax)
#   --partition P, --account A    where the cluster wants them
#   --grace S            seconds before the time limit at which the run saves and ends (300)
#   --dry-run            print what would be submitted
#
# At its time limit, when it is preempted and when a node fails, the job goes back into the queue;
# a new start continues the run.
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
# They become lines of a script, whose ends and "$" would begin others.
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
# SIGTERM comes $grace seconds before the time limit, or when the job is preempted: the run saves.
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
# Exit code 4: a process of the job was lost. It may go on with other nodes.
if [[ \$stopped || \$code -eq 4 ]]; then
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
