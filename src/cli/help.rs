//! What `blockjob-sim help TOPIC` says.

/// Topics and their texts.
pub const TOPICS: &[(&str, &str)] =
    &[("trace", crate::trace::text::HELP), ("scenario", SCENARIO), ("choices", CHOICES), ("strategies", STRATEGIES)];

const CHOICES: &str = "\
A run depends on its scenario and on its choices. Wherever QEMU leaves open what comes next, the simulation asks at a
named choice point, with two or more alternatives; alternative 0 is the calm one, what QEMU does on a quiet machine.

  (nothing)         calm: alternative 0 everywhere
  --seed N          choices are drawn from a seed; the same seed gives the same run on every machine
  --replay CHOICES  choices are taken from a list: a file, or the list itself

A list names the choices that are not calm, one a line or with commas between them:

  @17 complete-next 2/5    the 18th choice of the run, among 5 alternatives, takes the third
  @203 latency:3 1/4       with a subject, here node 3
  total 512                the run made 512 choices

`run --choices` prints this list for a run. A list that does not fit the run ends it with exit code 4 and says where;
with --lenient the run goes on calmly.

A scenario's `schedule` may also list preemptions. Each is counted by what it is about, so that one can be taken out
without a change of meaning of the others:

  complete-next read s.qcow2@65536 #2   this request is done early, when that is possible for the second time
  work-next write t.qcow2@0 #1          likewise, amid other work
  latency read s.qcow2@0 #1 =6          the first such request takes the seventh latency
  client-send step 7 #3                 step 7's command is sent when that is possible for the third time
  client-send step 7 #1 =2              likewise, so soon that the dispatcher finds it when it has written the last reply
  client-read step 7 #1 =2              two records are left unread then

  complete-next  which request in flight completes next
  latency        how long a request takes
  client-send    whether the client sends its next command or reads on
  client-read    how much of what is ready the client reads
  client-wait    whether the client lets a sleeping process be until its next timer
  work-next      which kind of ready work comes next
  mode           whether orders are open instead of times, and whether faults are; asked once, where exploring starts
  bh-order       whether a request is found done between two bottom halves; asked only of schedules that validate found
  fault          whether a rule of blkdebug strikes here, where exploring leaves that open

Kept for choices that no run asks for yet, as QEMU fixes the order, or nothing is there to choose:

  wake-order     which ready coroutine is entered next
  timer-order    which of several timers due fires first
  guest-next     which guest goes on
  guest-gap      how long a guest thinks
  scenario       a choice the scenario leaves open
";

const STRATEGIES: &str = "\
A strategy says how choices are drawn from a seed. Strategy and seed are all that is needed to reproduce a run.

  calm        nothing is drawn
  walk        latencies and orders at random; the seed also sets how far each kind of choice strays from calm
  uniform     orders at random, each alternative equally likely
  urw         orders at random, a job's requests weighted by the work it has left
  pct:D       each job and the client have a random priority; D-1 times the first in line becomes the last
  preempt:N   calm, but for N choices at random moments
  delay:N     calm, but for N times that the first in line is put back by one

All but calm and walk start where the scenario is marked `start` (before it all is calm), and leave open the order in
which requests complete, not their times: any request in flight may be next, and the clock moves for timers only.
";

const SCENARIO: &str = "\
A scenario is a YAML file:

  about: One sentence that says what is shown.
  include: [common/124.yaml]     files that hold `define` and nothing else, relative to this one
  define:                        procedures, so that what is common is written once
    backup:
      params: [drive]
      steps: [{qmp: {execute: drive-backup, arguments: {device: $drive, target: '${drive}.full', sync: full}}}]
  files:                         file steps and calls, done before QEMU starts
    - create: {file: a.qcow2, format: qcow2, size: 64M}
    - write: {file: a.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 512}
  args: ['-drive', 'if=none,id=drive0,file=a.qcow2,format=qcow2,node-name=node0']
  steps:
    - call: {backup: {drive: drive0}}
    - event: {event: BLOCK_JOB_COMPLETED, data: {device: drive0}, without: [error]}
  limits: {steps: 100000, time: 1h, trace: 100000}
  quirks: [txn-abort-fifo]       bugs of older QEMUs that are switched on (`blockjob-sim quirks`)
  expect-violation: NAME         the invariant that it breaks on purpose (`quirks --invariants`)
  schedule: calm                 or `seed 7`, `{choices: [...]}`, `{preemptions: [...]}`: the expectations hold in
                                 this schedule only; without it, in all (`help choices`)

Steps; the first key says what a step does:

  qmp: {execute, arguments, id}     sends a command and reads its reply, which must be a return value
    returns: PATTERN                  that matches
    error: {class, desc}              or an error; also `error: any`
    reply: any                        instead of both: any reply
  hmp: LINE                         sends human-monitor-command, which must succeed, also in the eyes of qemu-io
    output: TEXT                      which prints this, among other things
    returns: TEXT                     or replies exactly this
    fails: true                       it must fail; `fails: any`: it may (so it may with `output` or `returns: TEXT`)
  event: {event, data, without}     waits for the oldest queued event that fits; also `event: NAME`
  wait: JOB                         waits for the block job's BLOCK_JOB_COMPLETED, without an error, and until the job is gone
    error: TEXT                       it completes with this error
    until: concluded                  until it has this status instead (for auto-dismiss: false)
    until: ready                      waits for BLOCK_JOB_READY instead: a mirror, or a commit of the active layer, is in sync
  sleep: 300ms                      lets virtual time pass
  at: {frames, time}                waits until the process is where it was in a recorded run (docs/serve.md)
  idle: true                        waits until QEMU is at rest and all is read
  bitmap: {node, name, count, granularity, busy, recording, persistent, inconsistent}
                                    looks at a bitmap from outside; `absent: true` for none;
                                    `ranges: [[OFFSET, LENGTH], ...]` are all its dirty areas
  same: [A, B]                      images read the same, through their backing chains
  nbd: {client: NAME, connect: EXPORT, replies, contexts, refused}
                                    a client of the NBD server connects and negotiates (replies: simple, structured, extended)
                                    `silent: true`: it says nothing until it connects once more
  nbd: {client, read: OFFSET, length, flags}
                                    it asks; also write (with `pattern`), zero, trim, cache, status, `flush: true`
  nbd: {client, answer: ok}         it waits for an answer; also any, closed, {pattern: BYTE}, {error: EIO}, {extents: [[LENGTH, FLAGS], ...]}
  nbd: {client, leave: disconnect}  it leaves; also `gone`; `stall: true`: it reads nothing from now on
  nbd: {server: SOCKET, file: FILE, export, read-only, unmap}
                                    a server starts outside of the process (`qemu-nbd`) and serves a raw file to `nbd` nodes
  nbd: {server, state: killed}      it is gone, its socket stays; also `ended`, `stalled`, and `up` again
  no-jobs: true                     no job is left
  no-events: true                   no event is queued; also `no-events: {except: [NAME]}`
  start: [ARGS]                     waits until the process has ended, and starts another on the same files
    error: TEXT                       it must not start, and say this
  kill: true                        SIGKILL: what is not written yet is lost
  signal: TERM                      asks the process to end, as `quit` does; also INT, HUP
  mark: NAME                        a named place; exploring starts at `start`
  call: {NAME: {PARAMETER: VALUE}}  the steps of a procedure

File steps, done from outside at that moment:

  create: {file, format, size, backing: {file, format}, cluster-size, compat, lazy-refcounts}
  write: {file, format, pattern, offset, length}
  zero: {file, format, offset, length}
  discard: {file, format, offset, length}
  rebase: {file, backing: {file, format}}     names another backing file; `backing: null` for none
  host: {capacity: SIZE}                      all files together take no more than that (ENOSPC); `none`: no bound
  host: {file, limit: SIZE}                   a file may be no longer (EFBIG); `none`: no bound
  host: {file, fail: REQUEST, errno, after, times}
                                              reads, writes, write-zeroes, discards, flushes or truncates of a file fail (`read`, `write`,
                                              `write-zeroes`, `discard`, `flush`, `truncate`), so many times, after so many went well;
                                              `fail: none`: none fails any more
  host: {file, size: SIZE}                    somebody else makes a file that long
  host: {disk: {bytes: SIZE, requests: N}}    the disk does so much in a second, one request after the other; `disk: none`: the time of a
                                              request does not depend on others
  resize: {file, size}                        qemu-img resize, with --shrink where that is needed
  check: {file, leaks, corruptions}           qemu-img check must find so many; without numbers: nothing
  bytes: {file, at, hex}                      bytes of a file are changed
  text: {file, content}
  content: {file, size, data: [{at, hex, times}]}   a file as a recording found it

In a procedure `$name` and `${name}` stand for a parameter, `$$` for a dollar sign. Sizes are bytes, or 64K, 4M, 1G.

Patterns: an object matches if its members do (others may be there); a list matches if its elements are found in this
order (others may stand between); [] matches the empty list only; `exact: VALUE` matches nothing but VALUE; digits of
generated node names (#block123) do not count.
";
