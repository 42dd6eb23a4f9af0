#!/usr/bin/env bash
# Ten million hostile inputs of each kind, in release mode: tests/hostile.rs with a larger count.
#
#   tests/hostile.sh [COUNT] [SEED]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HOSTILE_INPUTS=${1:-10000000} HOSTILE_SEED=${2:-1}
for target in scenario_files qmp_lines hmp_lines qtest_lines failure_files campaign_files; do
    cargo test --release --test hostile -- --exact "$target"
done
cargo test --release --test hostile_nbd
