#!/bin/sh
# HyperQueue, on a cluster whose server and workers run already (`hq server start`; `hq worker start` on each machine). The environment
# is that of part.sh. HyperQueue gives the parts of a worker that is lost to another.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
hq submit --name blockjob-sim --array "0-$((PARTS - 1))" --cpus 1 --crash-limit unlimited \
    --env "PARTS=$PARTS" --env "CAMPAIGN=$CAMPAIGN" --env "OUT=$OUT" --env "BLOCKJOB_SIM=${BLOCKJOB_SIM:-blockjob-sim}" \
    --stdout "$OUT/log-%{TASK_ID}" --stderr "$OUT/log-%{TASK_ID}" --progress \
    -- sh -c "exec '$here/part.sh' \"\$HQ_TASK_ID\"" >&2
"$here/merge.sh"
