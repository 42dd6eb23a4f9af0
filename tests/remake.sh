#!/usr/bin/env bash
# Makes what tests compare with anew: tests/remake.sh WHAT. tests/data/README.md says where each file comes from.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat >&2 <<'TEXT'
usage: tests/remake.sh WHAT

  recordings [DIR/NAME…]  tests/data/qemu, by the real QEMU 10.0.2 (QEMU=… for another program); all without a name
  interplay               tests/data/interplay/replies.jsonl, by the same
  jobs NAME…              tests/data/jobs, likewise: adds what is new; PROGRAM_SEEDS in tests/qemu_traces.rs has to be looked up again
  reported [NAME…]        tests/data/reported/NAME/real.jsonl, likewise, where it differs; all without a name
  qmp-errors              tests/data/qmp-errors.jsonl, by the real QEMU 10.0.2
  blockdev-options        tests/data/blockdev-options.jsonl, likewise
  wire                    tests/data/wire, likewise
  machines                tests/data/machines.jsonl, likewise
  snapshots               snapshots of scenarios
  digests                 snapshots/iotest-124/digests
  seeds                   searches the seeds for RECORDED_SEEDS (tests/common/mod.rs), and prints them
  race-seeds              searches the seeds for RACE_SEEDS, and prints them
  pictures                tests/data/page, by Chromium
  gallery                 docs/gallery
TEXT
    exit 2
}

sim() { cargo run --release --locked --quiet -- "$@"; }

what=${1:-}
shift || usage
case $what in
recordings)
    if [ $# = 0 ]; then
        mapfile -t names < <(cd tests/data/qemu && find . -name '*.jsonl' | sed 's|^\./||; s|\.jsonl$||' | sort)
        set -- "${names[@]}"
    fi
    for name in "$@"; do
        new=$(mktemp)
        sim record --qemu "${QEMU:-qemu-system-x86_64}" --repeat 12 "sim-scenarios/$name.yaml" >"$new"
        mkdir -p "tests/data/qemu/$(dirname "$name")"
        mv "$new" "tests/data/qemu/$name.jsonl"
    done
    ;;
interplay)
    new=$(mktemp)
    tests/interplay.py "${QEMU:-qemu-system-x86_64}" >"$new"
    mv "$new" tests/data/interplay/replies.jsonl
    ;;
jobs)
    [ $# -gt 0 ] || usage
    for name in "$@"; do
        scenario=$(sed -n "s|^    (\"$name\", \"\([a-z0-9/-]*\)\"),\$|\1|p" tests/qemu_traces.rs)
        [ -n "$scenario" ] || { echo "tests/qemu_traces.rs names no scenario of $name" >&2; exit 1; }
        new=$(mktemp)
        sim record --qemu "${QEMU:-qemu-system-x86_64}" --repeat 10 "sim-scenarios/$scenario.yaml" >"$new"
        cargo test --release --locked --test remake -- jobs "$name" "$new"
        rm "$new"
    done
    ;;
reported)
    if [ $# = 0 ]; then
        mapfile -t names < <(ls tests/data/reported)
        set -- "${names[@]}"
    fi
    cargo test --release --locked --test remake -- reported "$@"
    ;;
qmp-errors) python3 tests/record-requests.py errors --qemu "${QEMU:-qemu-system-x86_64}" ;;
blockdev-options) python3 tests/record-requests.py options --qemu "${QEMU:-qemu-system-x86_64}" ;;
wire) python3 tests/record-requests.py wire --qemu "${QEMU:-qemu-system-x86_64}" ;;
machines) python3 tests/record-requests.py machines --qemu "${QEMU:-qemu-system-x86_64}" ;;
snapshots) INSTA_UPDATE=always cargo test --locked --test scenarios ;;
digests) INSTA_UPDATE=always cargo test --locked --test digests ;;
seeds | race-seeds) cargo test --release --locked --test remake -- "$what" ;;
pictures) BLOCKJOB_SIM_PICTURES=new cargo test --locked --test browser -- --include-ignored ;;
gallery) sim gallery docs/gallery ;;
*) usage ;;
esac
