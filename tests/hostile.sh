#!/usr/bin/env bash
# Ten million hostile inputs of each kind, in release mode: tests/hostile.rs, tests/hostile_images.rs and tests/hostile_nbd.rs with a larger
# count.
#
#   tests/hostile.sh [COUNT] [SEED]
#
# HOSTILE_SECONDS=N in the environment gives each kind no more than N seconds as well. Each kind tells how many inputs it had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HOSTILE_INPUTS=${1:-10000000} HOSTILE_SEED=${2:-1}
for target in scenario_files qmp_lines hmp_lines qtest_lines failure_files campaign_files; do
    cargo test --release --test hostile -- --exact "$target" --nocapture
done
cargo test --release --test hostile_images -- --exact mutants_do_no_harm --nocapture
cargo test --release --test hostile_nbd -- --nocapture
