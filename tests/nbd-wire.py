#!/usr/bin/env python3
"""Sends the same random NBD conversations to a real QEMU and to the simulator, and compares their answers byte for byte.

usage: nbd-wire.py PROGRAM [--seeds FIRST:LAST] [--qemu QEMU] [--keep]

PROGRAM is `blockjob-sim`. Each seed is a negotiation and some forty requests, one after the other, over the same images. Exit code 1 if
any answer differs; the seed and what was sent are printed."""
import argparse, json, os, random, shutil, socket, struct, subprocess, sys, tempfile, time

OPTS, REP = 0x49484156454F5054, 0x3e889045565a9
SIMPLE, CHUNK, EXT = 0x67446698, 0x668e33ef, 0x6e8a278c
MIB = 1 << 20
SIZE = 8 * MIB


class Process:
    """A QEMU or the simulator, with a QMP monitor and a server of four exports."""

    def __init__(self, argv, folder):
        self.folder = folder
        self.errors = open(os.path.join(folder, 'stderr'), 'w+')
        args = ['-S', '-nodefaults', '-machine', 'none', '-qmp', 'unix:qmp.sock,server=on,wait=off', '-display', 'none',
                '-blockdev', 'driver=qcow2,node-name=base,file.driver=file,file.filename=base.qcow2,read-only=on',
                '-blockdev', 'driver=qcow2,node-name=top,file.driver=file,file.filename=top.qcow2,backing=base',
                '-blockdev', 'driver=raw,node-name=plain,file.driver=qcow2,file.file.driver=file,file.file.filename=plain.qcow2',
                '-blockdev', 'driver=blkdebug,node-name=big,align=4096,image.driver=null-co,image.size=8388608,image.read-zeroes=on']
        self.process = subprocess.Popen(argv + args, cwd=folder, stdout=self.errors, stderr=self.errors)
        self.qmp = socket.socket(socket.AF_UNIX)
        end = time.time() + 30
        while True:
            try:
                self.qmp.connect(os.path.join(folder, 'qmp.sock'))
                break
            except OSError:
                if time.time() > end or self.process.poll() is not None:
                    raise RuntimeError('%s does not start: %s' % (argv, self.said()))
                time.sleep(0.01)
        self.lines = self.qmp.makefile('rw')
        self.lines.readline()
        self.command('qmp_capabilities')
        self.command('block-dirty-bitmap-add', node='top', name='b0', disabled=True)
        self.command('block-dirty-bitmap-add', node='top', name='b1')
        # Something for the bitmaps to tell of.
        self.command('human-monitor-command', **{'command-line': 'qemu-io top "write -P 7 1M 128k"'})
        self.command('nbd-server-start', addr={'type': 'unix', 'data': {'path': os.path.join(folder, 'nbd.sock')}})
        self.command('block-export-add', type='nbd', id='e0', **{'node-name': 'top', 'writable': True, 'allocation-depth': True,
                                                                 'bitmaps': ['b0', 'b1'], 'description': 'the top'})
        self.command('block-export-add', type='nbd', id='e1', name='ro', **{'node-name': 'base'})
        self.command('block-export-add', type='nbd', id='e2', **{'node-name': 'plain', 'writable': True})
        self.command('block-export-add', type='nbd', id='e3', **{'node-name': 'big', 'writable': True})

    def command(self, execute, **arguments):
        self.lines.write(json.dumps({"execute": execute, "arguments": arguments}) + '\n')
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if 'event' not in answer:
                if 'error' in answer:
                    raise RuntimeError("%s: %s" % (execute, answer))
                return answer['return']

    def said(self):
        self.errors.flush()
        return open(os.path.join(self.folder, 'stderr')).read()

    def end(self):
        try:
            self.command('quit')
            self.process.wait(10)
        except Exception:
            self.process.kill()
            self.process.wait()


class Talk:
    """One connection. Answers are kept as bytes."""

    def __init__(self, process):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(os.path.join(process.folder, 'nbd.sock'))
        self.closed = False

    def send(self, data):
        if not self.closed:
            try:
                self.socket.sendall(data)
            except OSError:
                pass

    def read(self, n):
        data = b''
        while len(data) < n:
            try:
                got = self.socket.recv(n - len(data))
            except socket.timeout:
                self.closed = True
                raise EOFError(data + b'<silence>')
            except OSError:
                got = b''
            if not got:
                self.closed = True
                raise EOFError(data + b'<closed>')
            data += got
        return data

    def whole(self, reader):
        """All bytes of an answer, with a mark where the connection ended."""
        data = b''
        try:
            for part in reader():
                data += part
        except EOFError as end:
            data += end.args[0]
        return data

    def option(self):
        def reader():
            while True:
                head = self.read(20)
                yield head
                _, _, kind, length = struct.unpack('>QIII', head)
                yield self.read(length)
                if kind not in (2, 3, 4):
                    return
        return self.whole(reader)

    def reply(self, kind, length):
        def reader():
            while True:
                magic = self.read(4)
                yield magic
                magic, = struct.unpack('>I', magic)
                if magic == SIMPLE:
                    rest = self.read(12)
                    yield rest
                    if kind == 0 and rest[:4] == b'\0\0\0\0':
                        yield self.read(length)
                    return
                if magic == CHUNK:
                    head = self.read(16)
                    flags, size = struct.unpack('>H', head[:2])[0], struct.unpack('>I', head[-4:])[0]
                elif magic == EXT:
                    head = self.read(28)
                    flags, size = struct.unpack('>H', head[:2])[0], struct.unpack('>Q', head[-8:])[0]
                else:
                    yield b'<what is this?>'
                    return
                yield head
                yield self.read(size)
                if flags & 1:
                    return
        return self.whole(reader)


def text(data):
    return struct.pack('>I', len(data)) + data


def negotiation(rng):
    """Options to send, each with what to call it. The last one begins transmission. Gives the mode, too."""
    steps, mode = [], 0
    names = [b'top', b'ro', b'plain', b'big']
    name = rng.choice(names)
    some_name = lambda: rng.choice(names + [b'', b'nope', b'x' * 100, b'top\0y', b'x' * rng.choice([4096, 4097, 9000])])
    queries = [b'base:allocation', b'qemu:allocation-depth', b'qemu:dirty-bitmap:b0', b'qemu:dirty-bitmap:b1', b'base:', b'qemu:',
               b'qemu:dirty-bitmap:', b'base:' + b'x' * rng.choice([4091, 4092, 9000]), b'other:thing', b'qemu:dirty-bitmap:nope', b'', b'base:allocation2']

    def meta(export):
        chosen = [rng.choice(queries) for _ in range(rng.choice([0, 1, 1, 2, 3, 4]))]
        return text(export) + struct.pack('>I', len(chosen)) + b''.join(text(query) for query in chosen)

    def info(export):
        wants = [rng.choice([0, 1, 2, 3, 3, 9]) for _ in range(rng.choice([0, 1, 2]))]
        return text(export) + struct.pack('>H', len(wants)) + b''.join(struct.pack('>H', want) for want in wants)

    wanted = rng.choice([0, 8, 8, 8, 11, 11])
    if wanted:
        steps.append((wanted, b''))
        mode = wanted
    for _ in range(rng.choice([0, 1, 2, 4])):
        kind = rng.choice([3, 3, 5, 6, 6, 8, 9, 9, 10, 10, 11, 99, 4, 'bad'] + [2, 'magic', 'huge'] * (rng.random() < 0.1))
        if kind == 'bad':
            kind = rng.choice([3, 5, 6, 8, 10, 11])
            steps.append((kind, rng.randbytes(rng.choice([1, 3, 5, 9]))))
            continue
        if kind in ('magic', 'huge'):
            # Both end the connection: something else than an option, or one of more than 32 MiB.
            steps.append((kind, b''))
            continue
        if kind in (8, 11):
            steps.append((kind, b''))
            mode = max(mode, kind)
        elif kind in (9, 10):
            steps.append((kind, meta(some_name())))
        elif kind == 6:
            steps.append((kind, info(some_name())))
        else:
            steps.append((kind, b''))
    if mode:
        steps.append((10, meta(name)))
    if mode != 11 and rng.random() < 0.2:
        steps.append((1, name))
    else:
        steps.append((7, info(name)))
    return steps, mode, name


def request(rng, mode, cookie):
    """A request as bytes, with its kind and its length."""
    kind = rng.choice([0, 0, 0, 1, 1, 3, 4, 5, 6, 6, 7, 7, 7, 8, 77])
    unit = rng.choice([1, 512, 4096, 65536])
    offset = rng.randrange(0, SIZE // unit) * unit
    length = rng.choice([0, 1, 7, 512, 4096, 65536, 200000, MIB, 3 * MIB, SIZE]) if kind != 1 else rng.choice([0, 1, 7, 512, 65536, 200000])
    if rng.random() < 0.9:
        length = min(length, SIZE - offset)
    if rng.random() < 0.02:
        length = 33 * MIB if kind != 1 else length
    flags = rng.choice([0, 0, 0, 0, 1, 2, 4, 8, 16, 64]) if rng.random() < 0.5 else 0
    if kind in (0, 7) and rng.random() < 0.3:
        flags |= {0: 4, 7: 8}[kind]
    data = b''
    if rng.random() < 0.002:
        # No request at all, or a write of more than 32 MiB: what cannot be read over.
        magic, long = rng.choice([(0x25609513 ^ 1, 512), (0x21e41c71 ^ 1, 512), (0, 512), (None, 33 * MIB)])
        if mode == 11:
            return struct.pack('>IHHQQQ', magic if magic is not None else 0x21e41c71, 0, 1, cookie, 0, long), 1, long
        return struct.pack('>IHHQQI', magic if magic is not None else 0x25609513, 0, 1, cookie, 0, long), 1, long
    if kind == 1:
        data = bytes([rng.randrange(256)]) * length if rng.random() < 0.7 else rng.randbytes(length)
        if mode == 11 and rng.random() < 0.9:
            flags |= 32
    if mode == 11:
        if kind == 7 and rng.random() < 0.3 and length:
            ids = [rng.choice([0, 1, 2, 3, 9]) for _ in range(rng.choice([0, 1, 1, 2, 5]))]
            data = struct.pack('>Q', length) + b''.join(struct.pack('>I', i) for i in ids)
            flags |= 32
            return struct.pack('>IHHQQQ', 0x21e41c71, flags, kind, cookie, offset, len(data)) + data, kind, length
        return struct.pack('>IHHQQQ', 0x21e41c71, flags, kind, cookie, offset, length) + data, kind, length
    return struct.pack('>IHHQQI', 0x25609513, flags, kind, cookie, offset, length) + data, kind, length


def conversation(seed, processes):
    """Runs one. Gives the first difference, or nothing."""
    rng = random.Random(seed)
    talks = [Talk(process) for process in processes]

    def both(data, read, what):
        answers = []
        for talk in talks:
            talk.send(data)
        for talk in talks:
            answers.append(b'<closed>' if talk.closed else read(talk))
        if answers[0] != answers[1]:
            return 'seed %d: %s\n  sent %s\n  qemu %s\n  here %s' % (seed, what, data[:80].hex(' ', 4), shown(answers[0]), shown(answers[1]))
        return None

    different = both(b'', lambda talk: talk.whole(lambda: [talk.read(18)]), 'greeting')
    flags = rng.choice([3] * 12 + [1] * 3 + [0, 2, 0x10, 0x80000003])
    different = different or both(struct.pack('>I', flags), lambda talk: b'', 'flags')
    steps, mode, name = negotiation(rng)
    for option, data in steps:
        if different or talks[0].closed:
            return different
        if option == 'magic':
            sent = struct.pack('>QII', OPTS + 1, 3, 0)
        elif option == 'huge':
            sent = struct.pack('>QII', OPTS, 3, (32 << 20) + 1)
        else:
            sent = struct.pack('>QII', OPTS, option, len(data)) + data
        if option == 1:
            size = 10 if flags & 2 else 134
            read = lambda talk: talk.whole(lambda: [talk.read(size)])
        else:
            read = Talk.option
        different = both(sent, read, 'option %s' % option)
    for number in range(40):
        if different or talks[0].closed:
            return different
        sent, kind, length = request(rng, mode, seed * 1000 + number)
        different = both(sent, lambda talk: talk.reply(kind, length), 'request %d of %s' % (kind, name.decode()))
    for talk in talks:
        talk.socket.close()
    return different


def shown(data):
    return data.hex(' ', 4) if len(data) < 120 else '%s … (%d bytes)' % (data[:100].hex(' ', 4), len(data))


def images(folder):
    run = lambda *argv: subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    run('qemu-img', 'create', '-f', 'qcow2', 'base.qcow2', str(SIZE))
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 1M', '-c', 'write -P 2 3M 128k', '-c', 'write -z 5M 1M', 'base.qcow2')
    run('qemu-img', 'create', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2')
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 3 512k 64k', '-c', 'write -z 2M 1M', 'top.qcow2')
    # Above qcow2 as well: what a host's file system takes for a hole is its own business.
    run('qemu-img', 'create', '-f', 'qcow2', 'plain.qcow2', str(SIZE))
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 4 1M 64k', 'plain.qcow2')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('program')
    parser.add_argument('--seeds', default='0:200')
    parser.add_argument('--qemu', default='qemu-system-x86_64')
    parser.add_argument('--keep', action='store_true')
    args = parser.parse_args()
    first, last = map(int, args.seeds.split(':'))
    work = tempfile.mkdtemp(prefix='nbd-wire.')
    failed = 0
    try:
        # Both get fresh images now and then, so that a difference does not follow from one before.
        for start in range(first, last, 50):
            processes = []
            for name, argv in (('qemu', [args.qemu, '-accel', 'tcg']), ('here', [os.path.abspath(args.program), 'qemu'])):
                folder = os.path.join(work, '%s-%d' % (name, start))
                os.mkdir(folder)
                images(folder)
                processes.append(Process(argv, folder))
            for seed in range(start, min(start + 50, last)):
                different = conversation(seed, processes)
                dead = [name for name, process in zip(('qemu', 'simulator'), processes) if process.process.poll() is not None]
                if different or dead:
                    failed += 1
                    print(different or 'seed %d' % seed, *['%s has ended: %s' % (n, processes[n == 'simulator'].said()[-300:]) for n in dead], flush=True)
                if dead:
                    break
            said = [[line.split(': ', 1)[-1] for line in process.said().splitlines() if 'Disconnect' in line or 'negotiation' in line]
                    for process in processes]
            if said[0] != said[1]:
                failed += 1
                for i in range(max(map(len, said))):
                    a, b = (list_[i] if i < len(list_) else None for list_ in said)
                    if a != b:
                        print('seeds from %d: standard error, line %d\n  qemu %s\n  here %s' % (start, i + 1, a, b))
                        break
            for process in processes:
                process.end()
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)
    print('%d conversations, %d differ' % (last - first, failed))
    sys.exit(1 if failed else 0)


main()
