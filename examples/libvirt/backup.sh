#!/bin/bash
# A backup as software makes it that uses libvirt, for nasty.sh: a full one with a checkpoint, a write, an incremental one, and a look at what
# came of it. It waits for jobs by asking whether they run, which is the kind of thing that an unlucky order breaks.
set -eu
backup() { # NAME CHECKPOINT SINCE
    rm -f "$DIR/$1".v*
    {
        echo "<domainbackup>"
        [ -z "$3" ] || echo "<incremental>$3</incremental>"
        echo "<disks><disk name='vda' type='file'><target file='$DIR/$1.vda'/><driver type='qcow2'/></disk>"
        echo "<disk name='vdb' type='file'><target file='$DIR/$1.vdb'/><driver type='qcow2'/></disk></disks></domainbackup>"
    } >"$DIR/backup.xml"
    echo "<domaincheckpoint><name>$2</name></domaincheckpoint>" >"$DIR/checkpoint.xml"
    virsh -q backup-begin guest "$DIR/backup.xml" "$DIR/checkpoint.xml"
    until virsh -q domjobinfo guest | grep -q 'Job type: *None'; do sleep 0.1; done
    virsh -q domjobinfo guest --completed | grep -q 'Job type: *Completed'
}
backup full monday ""
virsh -q qemu-monitor-command guest --hmp 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 7 1M 64k"'
backup inc tuesday monday
virsh -q destroy guest
# The increment lies upon the full backup.
qemu-img rebase -u -f qcow2 -b "$DIR/full.vda" -F qcow2 "$DIR/inc.vda"
qemu-img compare "$DIR/inc.vda" "$DIR/a.qcow2"
qemu-img compare "$DIR/full.vdb" "$DIR/b.qcow2"
