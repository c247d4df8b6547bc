#!/bin/bash
# One shard of clipfeat-extract a task of a SLURM array; the tasks need not run at the same time.
#
#     sbatch scripts/slurm_array.sh data.root=/data/scans output_dir=out
#     sbatch --array=0-31 scripts/slurm_array.sh …        32 shards
#     SHARDS=8 sbatch --array=3 scripts/slurm_array.sh …  task 3 of 8 alone, once more
#
# The same command again does what is missing. To change partition, time and so on, give sbatch its own flags.
#SBATCH --job-name=clipfeat
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --output=clipfeat-%A_%a.log

set -euo pipefail
: "${SLURM_ARRAY_TASK_ID:?is not set: start this script by sbatch}"
# exec: the TERM that comes a minute before the time is up reaches clipfeat-extract, which then ends cleanly.
exec clipfeat-extract "$@" \
    shard.index="$SLURM_ARRAY_TASK_ID" shard.count="${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
