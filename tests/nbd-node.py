#!/usr/bin/env python3
"""Has a real QEMU and the simulator open the same NBD servers, copy to them, and lose them; compares all replies and events.

usage: nbd-node.py PROGRAM [CASE]... [--qemu QEMU]

PROGRAM is `blockjob-sim`; `qemu-nbd`, `qemu-img` and `qemu-io` serve and make the images. Without a CASE all are tried. Exit code 1 if anything differs:
what was asked last and both answers are printed."""
import argparse, atexit, difflib, json, os, re, shutil, socket, subprocess, sys, tempfile, time

CHILDREN = []
QUIET = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@atexit.register
def reap():
    for child in CHILDREN:
        if child.poll() is None:
            child.kill()


class Process:
    """A QEMU or the simulator, and all that it said."""

    def __init__(self, argv, folder, args=()):
        self.folder, self.log, self.events, self.laps = folder, [], [], []
        self.began = time.time()
        base = ['-S', '-nodefaults', '-display', 'none', '-machine', 'none', '-qmp', 'unix:qmp.sock,server=on,wait=off']
        self.child = subprocess.Popen(argv + base + list(args), cwd=folder, **QUIET)
        CHILDREN.append(self.child)
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(1000):
            try:
                self.socket.connect(os.path.join(folder, 'qmp.sock'))
                break
            except OSError:
                time.sleep(0.01)
        self.socket.settimeout(30)
        self.lines = self.socket.makefile('r')
        self.lines.readline()
        self.ask('qmp_capabilities')

    def message(self):
        line = self.lines.readline()
        if not line:
            raise EOFError('the process has ended')
        message = json.loads(line)
        message.pop('timestamp', None)
        self.log.append(json.dumps(message, sort_keys=True))
        return message

    def ask(self, command, arguments=None):
        self.log.append('> %s %s' % (command, json.dumps(arguments or {}, sort_keys=True)))
        self.socket.sendall((json.dumps({'execute': command, 'arguments': arguments or {}}) + '\n').encode())
        while True:
            message = self.message()
            if 'event' not in message:
                return message
            self.events.append(message)

    def wait(self, event, **data):
        while True:
            for i, found in enumerate(self.events):
                if found['event'] == event and data.items() <= found['data'].items():
                    return self.events.pop(i)
            message = self.message()
            if 'event' in message:
                self.events.append(message)

    def gone(self, job):
        self.wait('JOB_STATUS_CHANGE', id=job, status='null')

    def io(self, node, line):
        return self.ask('human-monitor-command', {'command-line': 'qemu-io %s "%s"' % (node, line)})

    def node(self, name, path, **more):
        options = {'driver': 'nbd', 'node-name': name, 'server': {'type': 'unix', 'path': path}}
        return self.ask('blockdev-add', dict(options, **{key.replace('_', '-'): value for key, value in more.items()}))

    def lap(self, what):
        self.laps.append('%s after %d s' % (what, round(time.time() - self.began)))

    def end(self):
        try:
            self.ask('quit')
        except (EOFError, OSError):
            pass
        self.child.wait(20)

    def said(self):
        """What was said, without what no two QEMUs have in common."""
        names, said = {}, []
        for line in self.log + self.laps:
            line = re.sub(r'"actual-size": \d+, ', '', line)
            line = re.sub(r'#block\d+', lambda found: names.setdefault(found.group(), '#%d' % len(names)), line)
            said.append(re.sub(r'"(offset|current-progress)": \d+', r'"\1": N', line))
        return said


def serve(folder, path, image, *args):
    argv = ['qemu-nbd', '--persistent', '--shared=0', '-f', 'raw', '-k', os.path.join(folder, path), *args, image]
    child = subprocess.Popen(argv, cwd=folder, **QUIET)
    CHILDREN.append(child)
    for _ in range(1000):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(os.path.join(folder, path))
            return child
        except OSError:
            time.sleep(0.01)
    raise RuntimeError('qemu-nbd does not listen')


def kill(server):
    server.kill()
    server.wait()


def images(folder):
    script = '''truncate -s 4M t.raw; truncate -s 4M ro.raw; qemu-img create -q -f qcow2 s.qcow2 4M
                qemu-io -c "write -P 1 0 1M" -c "write -P 2 3M 64k" s.qcow2'''
    subprocess.run(script, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)


SOURCE = {'driver': 'qcow2', 'node-name': 's', 'file': {'driver': 'file', 'filename': 's.qcow2'}}


def mirror(start, folder):
    """A mirror with writes, and what the node takes."""
    serve(folder, 'srv.sock', 't.raw', '-x', 'e')
    q = start()
    q.ask('blockdev-add', SOURCE)
    q.node('t', 'srv.sock', export='e')
    q.ask('query-named-block-nodes', {'flat': True})
    for line in ['write -P 7 0 64k', 'read -P 7 0 64k', 'write -z 0 64k', 'discard 0 64k', 'flush', 'write -P 3 4097 511', 'read -P 3 4097 511']:
        q.io('t', line)
    for size in [8 << 20, 4 << 20, 1 << 20]:
        q.ask('block_resize', {'node-name': 't', 'size': size})
    q.ask('blockdev-mirror', {'job-id': 'm', 'device': 's', 'target': 't', 'sync': 'full', 'filter-node-name': 'f'})
    q.wait('BLOCK_JOB_READY')
    q.io('f', 'write -P 9 2M 64k')
    q.ask('job-complete', {'id': 'm'})
    q.gone('m')
    q.ask('query-named-block-nodes', {'flat': True})
    q.ask('blockdev-backup', {'job-id': 'b', 'device': 's', 'target': 't', 'sync': 'full'})
    q.gone('b')
    for node in 't', 's':
        q.ask('blockdev-del', {'node-name': node})
    q.end()
    compare = subprocess.run(['qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', 's.qcow2', 't.raw'], cwd=folder, capture_output=True, text=True)
    q.log.append(compare.stdout)
    return q


def names(start, folder):
    """File names, and servers that are not there."""
    serve(folder, 'srv.sock', 't.raw', '-x', 'e')
    serve(folder, 'plain.sock', 't.raw')
    serve(folder, 'ro.sock', 'ro.raw', '-r')
    q = start(['-drive', 'file=s.qcow2,format=qcow2,if=none,id=d',
               '-drive', 'file=nbd+unix:///e?socket=srv.sock,format=raw,if=none,id=d1',
               '-blockdev', 'driver=nbd,node-name=plain,server.type=unix,server.path=plain.sock'])
    q.ask('query-block')
    for name in ['nbd:unix:srv.sock:exportname=e', 'nbd+unix:///e?socket=srv.sock', 'nbd:unix:plain.sock', 'nbd+unix:///%65?socket=srv.sock',
                 'nbd:unix:ro.sock', 'nbd://', 'nbd:', 'nbd:unix:srv.sock:exportname=', 'nbd+unix:///e', 'nbd:foo', 'nbd:127.0.0.1:1',
                 'nbd+unix:///nope?socket=srv.sock', 'nbd+unix:///e?socket=none.sock', 'nbd://h/x?y=1', 'nbd+x://h/', 'json:{"driver":"nbd"}']:
        reply = q.ask('drive-mirror', {'device': 'd', 'job-id': 'j', 'target': name, 'format': 'raw', 'sync': 'full', 'mode': 'existing'})
        if 'return' in reply:
            q.wait('BLOCK_JOB_READY')
            q.ask('block-job-cancel', {'device': 'j'})
            q.gone('j')
    q.node('r', 'ro.sock')
    q.node('r', 'ro.sock', read_only=True)
    q.node('a', 'ro.sock', auto_read_only=True)
    q.node('b', 'srv.sock', export='e', x_dirty_bitmap='qemu:dirty-bitmap:b')
    q.node('b', 'srv.sock', export='e', tls_creds='zz')
    q.node('b', 'x' * 120)
    q.node('b', 'srv.sock', export='e' * 5000)
    q.ask('query-named-block-nodes', {'flat': True})
    q.end()
    return q


def away(start, folder):
    """Without reconnect-delay requests fail until the server was found again."""
    server = serve(folder, 'srv.sock', 't.raw')
    q = start()
    q.node('t', 'srv.sock')
    kill(server)
    for line in 'write 0 64k', 'read 0 64k':
        q.io('t', line)
    serve(folder, 'srv.sock', 't.raw')
    q.io('t', 'read 0 64k')
    time.sleep(3.3)
    q.io('t', 'read 0 64k')
    q.end()
    return q


def delay(start, folder):
    """With it they wait; the server comes back, or does not."""
    server = serve(folder, 'srv.sock', 't.raw')
    q = start()
    q.node('t', 'srv.sock', reconnect_delay=2)
    kill(server)
    server = serve(folder, 'srv.sock', 't.raw')
    q.io('t', 'write -P 5 0 64k')
    q.io('t', 'read -P 5 0 64k')
    q.lap('the server was back')
    kill(server)
    for _ in range(2):
        q.io('t', 'write 0 64k')
        q.lap('a write failed')
    q.node('x', 'none.sock', open_timeout=2)
    q.lap('opening has failed')
    q.end()
    return q


def hangs(start, folder):
    """A backup hangs on a server that is away, and is cancelled."""
    server = serve(folder, 'srv.sock', 't.raw')
    q = start()
    q.ask('blockdev-add', SOURCE)
    q.node('t', 'srv.sock', reconnect_delay=20)
    q.ask('blockdev-backup', {'job-id': 'b', 'device': 's', 'target': 't', 'sync': 'full', 'speed': 1 << 20})
    time.sleep(0.3)
    kill(server)
    time.sleep(1.5)
    q.ask('block-job-cancel', {'device': 'b'})
    q.gone('b')
    q.lap('it was cancelled')
    q.end()
    return q


CASES = {case.__name__: case for case in (mirror, names, away, delay, hangs)}


def carry(case, argv):
    folder = tempfile.mkdtemp(prefix='nbd-node.')
    try:
        images(folder)
        made = []

        def start(args=()):
            made.append(Process(argv, folder, args))
            return made[-1]

        try:
            return CASES[case](start, folder).said()
        except (EOFError, OSError) as error:
            return (made[-1].said() if made else []) + ['ended early: %r' % error]
    finally:
        reap()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument('program')
    parser.add_argument('case', nargs='*')
    parser.add_argument('--qemu', default='qemu-system-x86_64')
    options = parser.parse_args()
    failed = 0
    for case in options.case or CASES:
        real, ours = (carry(case, argv) for argv in ([options.qemu, '-accel', 'tcg'], [os.path.abspath(options.program), 'qemu']))
        for kind, a, b, c, d in difflib.SequenceMatcher(None, real, ours, autojunk=False).get_opcodes():
            if kind != 'equal':
                asked = [line for line in real[:a] if line.startswith('> ')]
                print('%s, after %s\n  QEMU: %s\n  ours: %s' % (case, (asked or [''])[-1][:200], '\n        '.join(real[a:b]), '\n        '.join(ours[c:d])))
        print('%-8s %4d lines, %s' % (case, len(real), 'the same' if real == ours else 'DIFFERENT'))
        failed += real != ours
    sys.exit(failed > 0)


main()
