//! What `blockjob-sim help TOPIC` says.

use crate::scenario::steps;

/// Topics of which there is a text.
pub const TOPICS: [&str; 4] = ["trace", "scenario", "choices", "strategies"];

/// The text of a topic.
#[must_use]
pub fn topic(name: &str) -> Option<String> {
    Some(match name {
        "trace" => crate::trace::text::HELP.to_owned(),
        "scenario" => scenario(),
        "choices" => CHOICES.to_owned(),
        "strategies" => STRATEGIES.to_owned(),
        _ => return None,
    })
}

/// What a scenario file may hold. What is said of a step is declared with it.
fn scenario() -> String {
    let (steps, on_files) = (steps::help(false), steps::help(true));
    format!("{SCENARIO_FILE}{steps}\nFile steps, done from outside at that moment:\n\n{on_files}\n{SCENARIO_VALUES}")
}

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

A scenario's `schedule` may also list deviations (`preemptions`). Each is counted by what it is about, so that one can be taken out
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

const SCENARIO_FILE: &str = "\
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
  qemu: 7.2                      the version of QEMU, 10.0 without it (`blockjob-sim versions`)
  quirks: [txn-abort-fifo]       bugs of older QEMUs that are switched on (`blockjob-sim quirks`)
  expect-violation: NAME         the invariant that it breaks on purpose (`quirks --invariants`)
  schedule: calm                 or `seed 7`, `{choices: [...]}`, `{preemptions: [...]}`: the expectations hold in
                                 this schedule only; without it, in all (`help choices`)

Steps; the first key says what a step does:

";

const SCENARIO_VALUES: &str = "\
In a procedure `$name` and `${name}` stand for a parameter, `$$` for a dollar sign. Sizes are bytes, or 64K, 4M, 1G.

Patterns: an object matches if its members do (others may be there); a list matches if its elements are found in this
order (others may stand between); [] matches the empty list only; `exact: VALUE` matches nothing but VALUE; digits of
generated node names (#block123) do not count.
";
