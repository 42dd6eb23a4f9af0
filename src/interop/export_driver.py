# What must not outlive the script: its QEMU and its directory, whatever ends it.
processes, starting, stopped = [], True, 0

def stop(number, frame):
    global stopped
    stopped = number
    if not starting:
        sys.exit(128 + number)

def started():
    global starting
    starting = False
    if stopped:
        sys.exit(128 + stopped)

def clean():
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
    os.chdir("/")
    shutil.rmtree(HERE, ignore_errors=True)

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
for number in SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, stop)
HERE = tempfile.mkdtemp()
atexit.register(clean)
os.chdir(HERE)
started()

def run(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.stdout.flush()
        sys.stdout.buffer.write(done.stdout)
        sys.exit("%r: exit code %d" % (words, done.returncode))

# A file of this name, which may be in a directory.
def made(name):
    if os.path.dirname(name):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    return name

class Missing(Exception):
    pass

def short(message):
    if "event" not in message:
        return "error" if "error" in message else "return"
    data = message.get("data", {})
    words = [message["event"], data.get("id", data.get("device")), data.get("status"), data.get("action")]
    return " ".join(w for w in words if w) + (" error" if "error" in data else "")

class Qmp:
    def __init__(self, command):
        global starting
        starting = True
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        processes.append(self.process)
        started()
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                self.socket.connect("qmp.sock")
                break
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.02)
        else:
            self.dead("it opens no monitor")
        if self.process.poll() is not None:
            self.dead("it does not start")
        self.closed, self.reply = False, {}
        self.data, self.events, self.outputs, self.mine, self.since = b"", [], [], False, 0

    def message(self, wait):
        self.socket.settimeout(wait)
        while b"\n" not in self.data:
            try:
                more = self.socket.recv(65536)
            except socket.timeout:
                return None
            except OSError:
                more = b""
            if not more:
                self.closed = True
                return None
            self.data += more
        line, self.data = self.data.split(b"\n", 1)
        message = json.loads(line)
        message.pop("timestamp", None)
        if "QMP" not in message:
            print("  <", json.dumps(message, sort_keys=True))
        if "event" in message:
            self.events.append(message)
        if "QMP" not in message and ("event" in message or not self.mine):
            self.outputs.append(short(message))
        return message

    def rest(self):
        while self.message(REST) is not None:
            pass

    def command(self, command):
        if not self.mine:
            self.since = len(self.outputs)
        print(">", json.dumps(command, sort_keys=True))
        self.socket.sendall(json.dumps(command).encode() + b"\n")
        while True:
            message = self.message(10)
            if message is None:
                self.dead("no reply")
            if "return" in message or "error" in message:
                self.reply = message
                return

    # A command of the script's own, which is no part of the trace.
    def own(self, command):
        self.mine = True
        self.command(command)
        self.mine = False

    # What QEMU keeps back of its images is written to them.
    def flush(self):
        if self.closed:
            return
        self.own({"execute": "query-named-block-nodes", "arguments": {"flat": True}})
        for node in self.reply.get("return", []):
            name = node["node-name"].replace("\\", "\\\\").replace('"', '\\"')
            line = 'qemu-io "%s" flush' % name
            self.own({"execute": "human-monitor-command", "arguments": {"command-line": line}})

    # QEMU ends: nothing of its images is kept back then.
    def end(self):
        self.rest()
        self.mine = True
        try:
            self.socket.sendall(b'{"execute": "quit"}\n')
        except OSError:
            pass
        while self.message(30) is not None:
            pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.dead("it does not quit")

    # Until so many replies and events were read.
    def seen(self, count):
        while len(self.outputs) < count:
            if self.message(WAIT) is None:
                raise Missing("nothing more came after %d outputs" % len(self.outputs))

    def event(self, name, data):
        fits = lambda e: e["event"] == name and all(e.get("data", {}).get(k) == v for k, v in data.items())
        while True:
            for event in self.events:
                if fits(event):
                    self.events.remove(event)
                    return
            if self.message(10) is None:
                self.dead("the event %s did not come" % name)

    # Until a job was told to be in that status, since the last command of the trace.
    def told(self, name, job):
        line = short({"event": "JOB_STATUS_CHANGE", "data": {"id": job, "status": name}})
        while line not in self.outputs[self.since:]:
            if self.message(10) is None:
                self.dead("job %s did not come to be %s" % (job, name))

    def dead(self, what):
        try:
            code = self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("QEMU hangs: " + what)
        sys.exit("QEMU ended with %d (negative: a signal): %s" % (code, what))
