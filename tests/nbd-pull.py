#!/usr/bin/env python3
"""A pull-mode backup of a served process as libvirt makes it, while its guest writes: nbdcopy copies a fleecing overlay, and the copy must
be the disk as it was when the backup began, byte for byte. Likewise through copy-before-write and snapshot-access.

usage: nbd-pull.py PROGRAM [ARGUMENT...]        e.g. nbd-pull.py target/release/blockjob-sim qemu

Needs nbdcopy (libnbd-bin) and qemu-img."""
import json, os, random, socket, subprocess, sys, tempfile, time

SIZE = 32 << 20


class Qemu:
    def __init__(self, argv, folder):
        self.process = subprocess.Popen(
            argv + ['-S', '-nodefaults', '-display', 'none', '-qmp', 'unix:qmp.sock,server=on,wait=off',
                    '-drive', 'if=none,id=drive0,node-name=s0,file=s.qcow2,format=qcow2', '-device', 'virtio-blk,drive=drive0,id=vda',
                    '-blockdev', 'driver=qcow2,node-name=t0,file.driver=file,file.filename=t.qcow2'], cwd=folder, stdout=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                self.socket.connect(os.path.join(folder, 'qmp.sock'))
                break
            except OSError:
                time.sleep(0.02)
        self.lines = self.socket.makefile('rw')
        self.lines.readline()
        self.do('qmp_capabilities')

    def do(self, execute, **arguments):
        arguments = {key.replace('_', '-'): value for key, value in arguments.items()}
        self.lines.write(json.dumps({'execute': execute, 'arguments': arguments}) + '\n')
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if 'error' in answer:
                raise SystemExit('%s: %s' % (execute, answer['error']['desc']))
            if 'return' in answer:
                return answer['return']

    def io(self, device, command):
        said = self.do('human-monitor-command', **{'command-line': 'qemu-io %s "%s"' % (device, command)})
        if said:
            raise SystemExit('qemu-io: ' + said)

    def copy(self, folder, export, device, rng):
        """nbdcopy runs while the guest writes."""
        with open(os.path.join(folder, 'copy.raw'), 'wb') as out:
            copy = subprocess.Popen(['nbdcopy', 'nbd+unix:///%s?socket=nbd.sock' % export, '-'], cwd=folder, stdout=out)
            writes = 0
            while copy.poll() is None or writes < 20:
                self.io(device, 'write -P %d %d 96k' % (rng.randrange(1, 256), rng.randrange(SIZE // 65536 - 2) * 65536))
                writes += 1
        return copy.returncode, writes


def main():
    argv = sys.argv[1:]
    argv[0] = os.path.abspath(argv[0]) if os.path.exists(argv[0]) else argv[0]
    rng = random.Random(1)
    failed = False
    for form in ('fleecing overlay', 'snapshot-access'):
        with tempfile.TemporaryDirectory(prefix='nbd-pull.') as folder:
            run = lambda *command: subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for name in ('s', 't'):
                run('qemu-img', 'create', '-f', 'qcow2', name + '.qcow2', str(SIZE))
            run('qemu-io', '-f', 'qcow2', *sum((['-c', 'write -P %d %dM 700k' % (i + 1, i)] for i in range(24)), []), 's.qcow2')
            run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', 's.qcow2', 'expected.raw')
            qemu = Qemu(argv, folder)
            device = 'drive0'
            if form == 'fleecing overlay':
                qemu.do('block-dirty-bitmap-add', node='s0', name='c1')
                run('qemu-img', 'create', '-f', 'qcow2', 'fl.qcow2', str(SIZE))
                qemu.do('blockdev-add', driver='qcow2', node_name='fl', file={'driver': 'file', 'filename': 'fl.qcow2'}, backing='s0')
                qemu.do('transaction', actions=[
                    {'type': 'block-dirty-bitmap-add', 'data': {'node': 'fl', 'name': 'tmp', 'disabled': True}},
                    {'type': 'block-dirty-bitmap-merge', 'data': {'node': 'fl', 'target': 'tmp', 'bitmaps': [{'node': 's0', 'name': 'c1'}]}},
                    {'type': 'block-dirty-bitmap-add', 'data': {'node': 's0', 'name': 'c2'}},
                    {'type': 'blockdev-backup', 'data': {'job-id': 'b', 'device': 's0', 'target': 'fl', 'sync': 'none'}}])
                export = 'fl'
            else:
                qemu.do('blockdev-add', driver='copy-before-write', node_name='cbw', file='s0', target='t0')
                qemu.do('qom-set', path='/machine/peripheral/vda', property='drive', value='cbw')
                qemu.do('blockdev-add', driver='snapshot-access', node_name='acc', file='cbw')
                device, export = '-d /machine/peripheral/vda/virtio-backend', 'acc'
            qemu.do('nbd-server-start', addr={'type': 'unix', 'data': {'path': os.path.join(folder, 'nbd.sock')}})
            qemu.do('block-export-add', type='nbd', id='e', node_name=export)
            code, writes = qemu.copy(folder, export, device, rng)
            qemu.do('nbd-server-stop')
            qemu.do('quit')
            qemu.process.wait(20)
            same = open(os.path.join(folder, 'copy.raw'), 'rb').read() == open(os.path.join(folder, 'expected.raw'), 'rb').read()
            failed |= code != 0 or not same
            print('%-18s nbdcopy ended with %d after %d writes of the guest; the copy is %s' % (
                form, code, writes, 'the point in time' if same else 'something else'), flush=True)
    sys.exit(failed)


main()
