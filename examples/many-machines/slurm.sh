#!/bin/sh
# Slurm: a job array with a task a part; the environment is that of part.sh. Slurm puts the part of a node that fails back into the queue
# (--requeue), and a part whose process was killed is submitted once more here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"
undone="0-$((PARTS - 1))"
for _ in 1 2 3; do
    # Each of PARTS, CAMPAIGN, OUT and BLOCKJOB_SIM goes along in the environment.
    sbatch --wait --quiet --requeue --export=ALL --job-name=blockjob-sim --array="$undone" --ntasks=1 --cpus-per-task=1 \
        --output="$OUT/log-%a" --open-mode=append --wrap "exec '$here/part.sh' \"\$SLURM_ARRAY_TASK_ID\"" || true
    undone=$(n=0; while [ "$n" -lt "$PARTS" ]; do
        grep -qs '"done":true' "$OUT/part-$n/campaign.jsonl" || printf '%s,' "$n"
        n=$((n + 1))
    done)
    undone=${undone%,}
    [ -n "$undone" ] || break
done
exec "$here/merge.sh"
