//! What the rules of `tests/tidy.rs` hold the code to.

/// Who may import whom: below, what a module's own code may name as `crate::…`. Tests inside of a module are free.
pub const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("invariant", &[]),
    ("version", &[]),
    ("quirk", &["base", "invariant", "version"]),
    ("choice", &["base"]),
    ("bitmap", &["base", "invariant"]),
    ("job", &["base"]),
    ("nbd", &["base"]),
    ("trace", &["base"]),
    ("block", &["base"]),
    ("qmp", &["base", "block", "version"]),
    ("host", &["base", "block"]),
    ("scenario", &["base", "host", "invariant", "quirk", "choice", "trace", "qmp", "version"]),
    (
        "world",
        &["version", "base", "invariant", "quirk", "choice", "bitmap", "job", "nbd", "trace", "block", "qmp", "host"],
    ),
    ("check", &["base", "invariant", "quirk", "bitmap", "job", "block", "qmp", "host", "world"]),
    (
        "sim",
        &[
            "version",
            "base",
            "invariant",
            "quirk",
            "choice",
            "bitmap",
            "job",
            "nbd",
            "trace",
            "block",
            "qmp",
            "host",
            "scenario",
            "world",
            "check",
        ],
    ),
    ("images", &["base", "block", "host", "world"]),
    ("render", &["base", "trace"]),
    (
        "serve",
        &[
            "version",
            "base",
            "invariant",
            "quirk",
            "choice",
            "trace",
            "block",
            "qmp",
            "host",
            "scenario",
            "world",
            "check",
            "sim",
            "images",
        ],
    ),
    ("shrink", &["base", "invariant", "choice", "trace", "scenario", "sim", "failure"]),
    ("debug", &["base", "choice", "trace", "scenario", "world", "sim"]),
    ("generate", &["base", "quirk", "choice", "trace", "scenario"]),
    ("failure", &["base", "choice", "trace", "scenario", "sim"]),
    ("explore", &["base", "invariant", "quirk", "choice", "job", "trace", "scenario", "world", "check", "sim"]),
    ("validate", &["base", "choice", "invariant", "trace", "scenario", "sim", "world"]),
    (
        "interop",
        &[
            "version",
            "base",
            "invariant",
            "choice",
            "failure",
            "generate",
            "host",
            "job",
            "nbd",
            "qmp",
            "quirk",
            "trace",
            "scenario",
            "sim",
            "validate",
            "world",
        ],
    ),
    (
        "cli",
        &[
            "version",
            "serve",
            "render",
            "debug",
            "base",
            "invariant",
            "quirk",
            "choice",
            "interop",
            "trace",
            "scenario",
            "sim",
            "explore",
            "failure",
            "generate",
            "validate",
            "shrink",
        ],
    ),
];

/// The modules that touch files, sockets and the clock.
pub const SHELL: &[&str] = &["src/interop", "src/cli", "src/serve", "src/images"];

/// The modules that open files: beside those the one function that reads a scenario for a test.
pub const FILES: &[&str] = &["src/interop", "src/cli", "src/serve", "src/images", "src/scenario/disk.rs"];

/// What may not stand in a module's own code, with the modules that may have it.
pub const BANNED: &[(&str, &str, &[&str])] = &[
    ("HashMap", "hash order differs from run to run", &[]),
    ("HashSet", "hash order differs from run to run", &[]),
    ("RandomState", "hash order differs from run to run", &[]),
    ("f32", "rounding differs between machines", &[]),
    ("f64", "rounding differs between machines", FLOATS),
    ("todo!", "what is missing answers `not simulated`", &[]),
    ("unimplemented!", "what is missing answers `not simulated`", &[]),
    ("dbg!", "left over", &[]),
    ("{:p}", "addresses differ from run to run", &[]),
    ("as_ptr", "addresses differ from run to run", &[]),
    ("ptr_eq", "sharing is no property of a value", &["src/block/content/fill.rs", "src/block/content/sparse.rs"]),
    ("thread_local", "nothing outside of the World keeps state", &[]),
    ("static ", "nothing outside of the World keeps state", &["src/main.rs"]),
    ("debug_assert", "rules hold in release builds too", &["src/cli"]),
    ("std::time", "runs know virtual time only", SHELL),
    ("std::thread", "a run has one thread", SHELL),
    ("std::env", "runs see no environment", SHELL),
    ("std::fs", "runs see no files but those of the World", FILES),
    ("std::net", "runs see no sockets", SHELL),
    ("std::process", "only the shell ends the process", &["src/cli", "src/interop", "src/serve", "src/main.rs"]),
    ("std::io", "runs neither read nor print", SHELL),
    // The workers of a search share which states are known; each has runs of its own.
    ("Mutex", "a run has one thread", &["src/cli", "src/explore/search.rs", "src/interop/scratch.rs"]),
    ("RefCell", "a clone of the world must be a clone", &[]),
    ("rand_chacha", "choices come from one place", &["src/choice/stream.rs"]),
];

/// Places where a parser's interface, or a number's text, has floats; none reaches a run.
pub const FLOATS: &[&str] = &["src/trace/canonical.rs", "src/scenario/tree.rs", "src/qmp/json.rs"];

/// Lines that a file of `src` or `tests` may have.
pub const MAX_LINES: usize = 600;

/// The rooms of `src/world`, bottom up, and which of the rooms above them in this list each may import. A folder that has no line of its
/// own belongs to the one that it stands in.
pub const ROOMS: &[(&str, &[&str])] = &[
    ("aio", &[]),
    ("watch", &[]),
    ("block", &["aio", "watch"]),
    ("block/io", &["aio", "watch", "block"]),
    ("block/driver", &["aio", "watch", "block", "block/io"]),
    ("block/open", &["aio", "watch", "block", "block/io", "block/driver"]),
    ("job", &["aio", "watch", "block", "block/io", "block/driver", "block/open"]),
    ("export", &["aio", "watch", "block", "block/io", "block/driver", "block/open"]),
    ("blockdev", &["aio", "watch", "block", "block/io", "block/driver", "block/open", "job"]),
    ("system", &["aio", "watch", "block", "block/io", "block/driver", "block/open", "job", "export", "blockdev"]),
    ("monitor", &["aio", "watch", "block", "block/io", "block/driver", "block/open", "job", "blockdev", "system"]),
];

/// Which room imports one that stands below it in [`ROOMS`], and why. QEMU has the same ways back.
pub const BACK: &[(&str, &str, &str)] = &[
    (
        "aio",
        "block/driver",
        "a device works on the file of a node (`thread_pool_submit`); orders and faults are offered by file",
    ),
    ("watch", "block", "what a guest asks of a drive is told as it was asked"),
    ("watch", "block/driver", "what a node's file held at an instant is frozen by driver"),
    ("watch", "job", "what a mirror has still to copy is looked at in the job's own state"),
    ("block", "block/io", "a node lists its requests (`tracked_requests`); a backend sends them on (`blk_co_preadv`)"),
    ("block", "block/driver", "a node holds its driver and its driver's state (`bs->drv`, `bs->opaque`)"),
    ("block", "block/open", "a node keeps what it was opened with; making an image opens it (`blk_new_open`)"),
    ("block/io", "block/driver", "`bdrv_co_preadv` and the like call the driver"),
    (
        "block/driver",
        "block/open",
        "`bdrv_open` of a driver reads its own options; making a qcow2 image opens its file",
    ),
    ("block/driver", "job", "`bdrv_cbw_append` takes what the backup job was told"),
    ("job", "monitor", "`blockdev-create` is run again when the host was asked for its file"),
];

/// Where no type of job is named: the life cycle, groups, what is done to any job, and the monitor. Each job says what there is to say of
/// it in its own file (`JobHooks`, `JobCommands`).
pub const KNOWS_NO_JOB: &[&str] = &[
    "src/world/monitor/",
    "src/world/job/mod.rs",
    "src/world/job/txn.rs",
    "src/world/job/verbs.rs",
    "src/world/job/block_job.rs",
    "src/world/job/commands.rs",
    "src/world/blockdev/transaction.rs",
];

/// What types of jobs are called, and what starts them. `commit` alone is also what a job does when all of its group succeeded.
pub const JOB_NAMES: &[&str] = &[
    "backup",
    "mirror",
    "stream",
    "block_commit",
    "block-commit",
    "blockcommit",
    "blockdev_create",
    "blockdev-create",
    "blockdevcreate",
];

/// Where drivers are told apart by their state: they themselves, and opening them.
pub const KNOWS_DRIVERS: &[&str] = &["src/world/block/driver/", "src/world/block/open/"];

/// Others that look at a driver's state, and why. What is asked of any driver is a hook of its row.
pub const LOOKS_AT_DRIVERS: &[(&str, &str)] = &[
    ("src/world/block/edges.rs", "a quorum lists its children, and qcow2 knows whether it has a backing file"),
    ("src/world/block/dirty_bitmap.rs", "only qcow2 stores bitmaps"),
    ("src/world/aio/open_orders.rs", "faults that are open are those of blkdebug's rules"),
];

/// Exceptions there may be.
pub const MAX_BACK: usize = 15;

/// Files at the top of `src/world`, and whether they see the rooms; what sees none may be imported by all.
pub const WORLD_FILES: &[(&str, bool)] = &[
    ("arena", false),
    ("out", false),
    ("value", false),
    ("mod", true),
    ("frame", true),
    ("dispatch", true),
    ("rebase", true),
    ("waiting", true),
];

/// Files at the top of `src/world` that all rooms may import: ids, the register, frames, `World`, what the process puts out.
pub const WORLD_SHARED: &[&str] = &["arena", "out", "value", "mod", "frame"];

/// Files that a folder below `src` may have.
pub const MAX_FILES: usize = 16;

/// Words that do not say of what: no type that others see is called by one of them alone. What `Mode` is of a reader of a signature
/// cannot tell; `NbdMode` he can.
pub const NO_SUBJECT: &[&str] = &[
    "About", "Ask", "Asked", "At", "By", "Data", "Entry", "Found", "Got", "Head", "Host", "Info", "Item", "Kind",
    "Known", "Later", "Look", "Meaning", "Mode", "Next", "Note", "Of", "Op", "Out", "Pace", "Page", "Part", "Phase",
    "Place", "Saved", "Source", "Span", "Stage", "Start", "State", "Status", "Step", "Thing", "Walk", "What", "Which",
    "Who",
];

/// Types that are called so all the same, and why.
pub const SUBJECT_IS_CLEAR: &[(&str, &str, &str)] = &[
    ("src/base/time.rs", "Span", "of virtual time, beside `Instant`; other spans have a subject"),
    ("src/block/content/data.rs", "Data", "the payload of any request, of which there is one form only"),
    ("src/choice/walk.rs", "Walk", "the strategy `walk`, as `--strategy` takes it"),
];
