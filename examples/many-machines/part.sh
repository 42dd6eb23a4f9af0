#!/bin/sh
# One part of a campaign: all that a machine has to do. It is given once more by whoever finds it undone, and goes on where it was.
#   part.sh NUMBER    with, in the environment:
#   PARTS             how many parts there are: many more than machines, so that a lost one costs little
#   CAMPAIGN          what `blockjob-sim fuzz` is given, the same for all parts: "race.yaml --seeds 0..1000000 --keep-going"
#   OUT               a directory that all machines see; each part has its own directory in it
#   BLOCKJOB_SIM      the program; without it, the one on the PATH
set -eu
# shellcheck disable=SC2086 # several words
exec "${BLOCKJOB_SIM:-blockjob-sim}" fuzz $CAMPAIGN --quiet --jobs 1 --shard "$1/$PARTS" --resume --state "$OUT/part-$1"
