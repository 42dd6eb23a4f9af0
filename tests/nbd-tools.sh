#!/bin/sh
# Runs the tools of libnbd and QEMU against the NBD server of a program, and prints a table: what was tried, and whether it worked.
#
# usage: nbd-tools.sh PROGRAM [ARGUMENT...]        e.g. nbd-tools.sh target/release/blockjob-sim qemu
#        nbd-tools.sh qemu-system-x86_64 -accel tcg
#
# Needs nbdinfo and nbdcopy (libnbd-bin), python3-libnbd, qemu-img, qemu-io and qemu-nbd. A tool that is missing is skipped, and says so.
set -u
program=$(command -v "$1" || echo "$1"); shift
case $program in /*) ;; *) program=$PWD/$program ;; esac
work=$(mktemp -d) && cd "$work" || exit 2
trap 'kill $served 2>/dev/null; rm -rf "$work"' EXIT
failed=0

qemu-img create -q -f qcow2 base.qcow2 16M
qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 8M 128k' base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
qemu-io -f qcow2 -c 'write -P 3 512k 64k' top.qcow2 >/dev/null
qemu-img create -q -f qcow2 empty.qcow2 16M
qemu-img convert -f qcow2 -O raw top.qcow2 expected.raw

(echo '{"execute": "qmp_capabilities"}'
 echo '{"execute": "block-dirty-bitmap-add", "arguments": {"node": "top", "name": "b0"}}'
 echo '{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io top \"write -P 3 512k 64k\""}}'
 echo '{"execute": "block-dirty-bitmap-disable", "arguments": {"node": "top", "name": "b0"}}'
 echo '{"execute": "nbd-server-start", "arguments": {"addr": {"type": "unix", "data": {"path": "nbd.sock"}}}}'
 echo '{"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e0", "node-name": "top", "name": "sda", "bitmaps": ["b0"], "allocation-depth": true, "description": "a disk"}}'
 echo '{"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e1", "node-name": "empty", "name": "new", "writable": true}}'
 sleep 100) | "$program" "$@" -S -nodefaults -machine none -display none -qmp stdio \
  -blockdev driver=qcow2,node-name=top,file.driver=file,file.filename=top.qcow2 \
  -blockdev driver=qcow2,node-name=empty,file.driver=file,file.filename=empty.qcow2 >qmp.log 2>errors.log &
served=$!
for _ in $(seq 100); do [ "$(grep -c return qmp.log)" -ge 7 ] && break; sleep 0.1; done

sda="nbd+unix:///sda?socket=nbd.sock"
new="nbd+unix:///new?socket=nbd.sock"

# try NAME TOOL COMMAND: whether the command succeeds
try() {
  if ! command -v "$2" >/dev/null; then printf '%-44s skipped: no %s\n' "$1" "$2"; return; fi
  if sh -c "$3" >out.txt 2>&1; then printf '%-44s ok\n' "$1"
  else printf '%-44s FAILED\n' "$1"; sed 's/^/    /' out.txt | head -5; failed=1; fi
}
try 'nbdinfo' nbdinfo "nbdinfo '$sda' | grep -q 'export-size: 16777216'"
try 'nbdinfo --size' nbdinfo "test \$(nbdinfo --size '$sda') = 16777216"
try 'nbdinfo --list' nbdinfo "nbdinfo --list 'nbd+unix://?socket=nbd.sock' | grep -q 'export=\"new\"'"
try 'nbdinfo --can' nbdinfo "nbdinfo --can multi-conn '$sda' && nbdinfo --is read-only '$sda'"
try 'nbdinfo --map' nbdinfo "nbdinfo --map --json '$sda' | grep -q '\"length\": 1048576'"
try 'nbdinfo --map=qemu:dirty-bitmap:b0' nbdinfo "nbdinfo --map=qemu:dirty-bitmap:b0 '$sda' | grep -Eq '524288 +65536 +1'"
try 'nbdinfo --map=qemu:allocation-depth' nbdinfo "nbdinfo --map=qemu:allocation-depth '$sda' | grep -Eq '524288 +65536 +1 +local'"
try 'nbdcopy to a file' nbdcopy "nbdcopy '$sda' copy.raw && cmp copy.raw expected.raw"
try 'nbdcopy from a file' nbdcopy "nbdcopy --flush expected.raw '$new' && nbdcopy '$new' - | cmp - expected.raw"
try 'python libnbd' /usr/bin/python3 "/usr/bin/python3 -c \"import nbd; h = nbd.NBD(); h.add_meta_context('qemu:dirty-bitmap:b0'); h.connect_uri('$sda'); assert h.pread(65536, 524288) == bytes([3]) * 65536; found = []; h.block_status(h.get_size(), 0, lambda c, o, e, r: found.extend(e)); assert found == [524288, 0, 65536, 1, 16187392, 0], found; h.shutdown()\""
try 'qemu-img info' qemu-img "qemu-img info '$sda' | grep -q '16 MiB'"
try 'qemu-img map' qemu-img "qemu-img map --output=json '$sda' | grep -q '\"length\": 131072'"
try 'qemu-img map, x-dirty-bitmap' qemu-img "qemu-img map --output=json --image-opts driver=nbd,server.type=unix,server.path=nbd.sock,export=sda,x-dirty-bitmap=qemu:dirty-bitmap:b0 | grep -q '\"start\": 524288'"
try 'qemu-img convert from it' qemu-img "qemu-img convert -f raw -O raw '$sda' convert.raw && cmp convert.raw expected.raw"
try 'qemu-img convert to it' qemu-img "qemu-img convert -n -f raw -O raw expected.raw '$new' && qemu-img compare -f raw -F raw '$new' expected.raw"
try 'qemu-img compare' qemu-img "qemu-img compare -f raw -F raw '$sda' expected.raw"
try 'qemu-io' qemu-io "qemu-io -f raw -c 'write -P 9 1M 64k' -c 'read -P 9 1M 64k' -c 'write -z 1M 64k' -c 'discard 2M 1M' -c flush '$new' | grep -c 'ops;' | grep -q 4"
try 'qemu-nbd --list' qemu-nbd "qemu-nbd --list -k $PWD/nbd.sock | grep -q 'qemu:dirty-bitmap:b0'"
[ $failed = 0 ] || { echo 'standard error of the program:'; head -5 errors.log; }
exit $failed
