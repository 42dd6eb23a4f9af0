#!/bin/sh
# What all parts found, as one big run would have told it; its environment is that of part.sh. Exit code 2: parts are missing, and which.
set -eu
exec "${BLOCKJOB_SIM:-blockjob-sim}" merge "$OUT"/part-* --failures "$OUT/failures" --report "$OUT/report"
