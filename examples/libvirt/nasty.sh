#!/bin/bash
# Runs a command against a libvirt domain whose QEMU is the simulator, once under each seed: nasty.sh FROM..TO COMMAND...
#
# The domain is called guest and has two disks, vda and vdb. The command finds libvirt by LIBVIRT_DEFAULT_URI, and the directory of the
# images in DIR. It fails by its exit code; the recording of such a run is kept as failures/SEED.yaml, and `blockjob-sim run` runs it again.
# SIM_OPTIONS are further options of the simulator, such as "--sim-pace disk:hdd"; BLOCKJOB_SIM is the program.
set -u
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" != 0 ] || { echo "it starts the libvirt daemon of a user, and root has none: run it as a user" >&2; exit 2; }
first=${1%%..*} last=${1##*..}; shift
sim=$(command -v "${BLOCKJOB_SIM:-blockjob-sim}") || { echo "there is no ${BLOCKJOB_SIM:-blockjob-sim}" >&2; exit 2; }
DIR=${DIR:-$PWD/nasty}; export DIR
mkdir -p "$DIR/bin" failures
# Under this name the program takes QEMU's options. A copy: others may not read the directory of the original.
cp "$sim" "$DIR/bin/qemu-system-x86_64"
export LIBVIRT_DEFAULT_URI=qemu:///session XDG_RUNTIME_DIR="$DIR/run" XDG_CONFIG_HOME="$DIR/config" XDG_CACHE_HOME="$DIR/cache"
mkdir -p "$XDG_RUNTIME_DIR" "$XDG_CONFIG_HOME/libvirt" "$XDG_CACHE_HOME"
printf 'security_driver = "none"\nnamespaces = []\nstdio_handler = "file"\n' >"$XDG_CONFIG_HOME/libvirt/qemu.conf"
libvirtd --timeout 300 >"$DIR/libvirtd.log" 2>&1 &
daemon=$!
trap 'virsh -q destroy guest >/dev/null 2>&1; kill $daemon' EXIT
for _ in $(seq 100); do virsh -q version >/dev/null 2>&1 && break; sleep 0.1; done

failed=0
for seed in $(seq "$first" "$last"); do
    rm -f "$DIR"/*.qcow2 "$DIR/run.yaml"
    for disk in a b; do
        qemu-img create -q -f qcow2 "$DIR/$disk.qcow2" 16M
        qemu-io -f qcow2 -c 'write -P 5 0 4M' "$DIR/$disk.qcow2" >/dev/null
    done
    options=
    for option in --sim-seed "$seed" --sim-record "$DIR/run.yaml" --sim-check ${SIM_OPTIONS:-}; do
        options="$options<qemu:arg value='$option'/>"
    done
    disk() { echo "<disk type='file'><driver name='qemu' type='qcow2'/><source file='$DIR/$1.qcow2'/><target dev='$2' bus='virtio'/></disk>"; }
    cat >"$DIR/guest.xml" <<X
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
  <devices><emulator>$DIR/bin/qemu-system-x86_64</emulator>$(disk a vda)$(disk b vdb)</devices>
  <qemu:commandline>$options</qemu:commandline>
</domain>
X
    # Checkpoints that a run leaves behind are libvirt's, not the domain's.
    virsh -q undefine guest --checkpoints-metadata --snapshots-metadata >/dev/null 2>&1
    if virsh -q define "$DIR/guest.xml" >/dev/null && virsh -q start guest >/dev/null && "$@" >"$DIR/output" 2>&1; then verdict=ok; else verdict=FAILED; fi
    virsh -q destroy guest >/dev/null 2>&1
    echo "$verdict      seed $seed"
    if [ $verdict = FAILED ]; then
        failed=$((failed + 1))
        tail -n 5 "$DIR/output" || tail -n 5 "$DIR/libvirtd.log"
        cp "$DIR/run.yaml" "failures/$seed.yaml" && echo "  again: blockjob-sim run failures/$seed.yaml"
    fi
done
[ $failed = 0 ]
