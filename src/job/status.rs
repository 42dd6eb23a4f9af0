//! The job state machine: statuses, verbs, and the two tables that say what may follow what (QEMU's `job.c`).

use std::fmt;

/// Where a job is in its life (`JobStatus`, qapi/job.json), in QEMU's enum order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum JobStatus {
    /// `undefined`: creation has not finished; no client ever sees it.
    Undefined,
    /// `created`: the object exists, its coroutine was not started.
    Created,
    /// `running`: started.
    Running,
    /// `paused`: was running and stands at a pause point.
    Paused,
    /// `ready`: a mirror or active commit whose target is in sync.
    Ready,
    /// `standby`: was ready and stands at a pause point.
    Standby,
    /// `waiting`: succeeded itself, waits for the rest of its group.
    Waiting,
    /// `pending`: the whole group succeeded, waits for finalisation.
    Pending,
    /// `aborting`: failed or cancelled, being torn down.
    Aborting,
    /// `concluded`: finished, only the record is left.
    Concluded,
    /// `null`: about to be freed.
    Null,
}

/// What a client may ask of a job (`JobVerb`, qapi/job.json), in QEMU's enum order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum JobVerb {
    /// `cancel`: job-cancel, block-job-cancel
    Cancel,
    /// `pause`: job-pause, block-job-pause
    Pause,
    /// `resume`: job-resume, block-job-resume
    Resume,
    /// `set-speed`: block-job-set-speed
    SetSpeed,
    /// `complete`: job-complete, block-job-complete
    Complete,
    /// `dismiss`: job-dismiss, block-job-dismiss
    Dismiss,
    /// `finalize`: job-finalize, block-job-finalize
    Finalize,
    /// `change`: block-job-change
    Change,
}

/// The kind of a job (`JobType`, qapi/job.json), in QEMU's enum order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum JobType {
    /// `commit`: block-commit, both of an intermediate and of the active layer
    Commit,
    /// `stream`: block-stream
    Stream,
    /// `mirror`: blockdev-mirror, drive-mirror
    Mirror,
    /// `backup`: blockdev-backup, drive-backup
    Backup,
    /// `create`: blockdev-create
    Create,
    /// `amend`: x-blockdev-amend
    Amend,
    /// `snapshot-load`: snapshot-load
    SnapshotLoad,
    /// `snapshot-save`: snapshot-save
    SnapshotSave,
    /// `snapshot-delete`: snapshot-delete
    SnapshotDelete,
}

/// A set of statuses, bit n standing for the status of discriminant n.
#[derive(Clone, Copy, PartialEq, Eq)]
struct StatusSet(u16);

impl StatusSet {
    const fn of(members: &[JobStatus]) -> StatusSet {
        let mut bits = 0;
        let mut i = 0;
        while i < members.len() {
            bits |= 1 << members[i] as u16;
            i += 1;
        }
        StatusSet(bits)
    }

    const fn has(self, status: JobStatus) -> bool {
        self.0 & (1 << status as u16) != 0
    }
}

use JobStatus::{Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Undefined, Waiting};

/// What may directly follow each status (`job.c:JobSTT`).
const TRANSITIONS: [(JobStatus, StatusSet); 11] = [
    (Undefined, StatusSet::of(&[Created])),
    (Created, StatusSet::of(&[Running, Aborting, Null])),
    (Running, StatusSet::of(&[Paused, Ready, Waiting, Aborting])),
    (Paused, StatusSet::of(&[Running])),
    (Ready, StatusSet::of(&[Standby, Waiting, Aborting])),
    (Standby, StatusSet::of(&[Ready])),
    (Waiting, StatusSet::of(&[Pending, Aborting])),
    (Pending, StatusSet::of(&[Aborting, Concluded])),
    // A group aborts each member although the one that failed is aborting already.
    (Aborting, StatusSet::of(&[Aborting, Concluded])),
    (Concluded, StatusSet::of(&[Null])),
    (Null, StatusSet::of(&[])),
];

const STARTABLE: StatusSet = StatusSet::of(&[Created, Running, Paused, Ready, Standby]);

/// In which statuses each verb is accepted (`job.c:JobVerbTable`).
const VERBS: [(JobVerb, StatusSet); 8] = [
    (JobVerb::Cancel, StatusSet::of(&[Created, Running, Paused, Ready, Standby, Waiting, Pending])),
    (JobVerb::Pause, STARTABLE),
    (JobVerb::Resume, STARTABLE),
    (JobVerb::SetSpeed, STARTABLE),
    (JobVerb::Complete, StatusSet::of(&[Ready, Standby])),
    (JobVerb::Dismiss, StatusSet::of(&[Concluded])),
    (JobVerb::Finalize, StatusSet::of(&[Pending])),
    (JobVerb::Change, STARTABLE),
];

const COMPLETED: StatusSet = StatusSet::of(&[Waiting, Pending, Aborting, Concluded, Null]);

// The tables are indexed by discriminant, so each row must stand in its place; and completion is final.
const _: () = {
    let mut i = 0;
    while i < TRANSITIONS.len() {
        let (from, to) = TRANSITIONS[i];
        assert!(from as usize == i, "TRANSITIONS is out of enum order");
        assert!(!COMPLETED.has(from) || to.0 & !COMPLETED.0 == 0, "a completed job comes back to life");
        assert!(!to.has(Undefined), "a job becomes undefined again");
        i += 1;
    }
    let mut i = 0;
    while i < VERBS.len() {
        let (verb, statuses) = VERBS[i];
        assert!(verb as usize == i, "VERBS is out of enum order");
        assert!(!statuses.has(Undefined) && !statuses.has(Null), "a verb reaches a job that nobody can see");
        i += 1;
    }
};

impl JobStatus {
    /// All statuses, in enum order.
    pub const ALL: [JobStatus; 11] =
        [Undefined, Created, Running, Paused, Ready, Standby, Waiting, Pending, Aborting, Concluded, Null];

    /// The name QMP gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Undefined => "undefined",
            Created => "created",
            Running => "running",
            Paused => "paused",
            Ready => "ready",
            Standby => "standby",
            Waiting => "waiting",
            Pending => "pending",
            Aborting => "aborting",
            Concluded => "concluded",
            Null => "null",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<JobStatus> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Whether the job's own work is over, for good or ill (`job.c:job_is_completed_locked`).
    #[must_use]
    pub const fn is_completed(self) -> bool {
        COMPLETED.has(self)
    }

    /// Whether query-block-jobs shows it as ready (`job.c:job_is_ready_locked`).
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Ready | Standby)
    }
}

/// Whether a job may go from one status straight to another; QEMU aborts the process where this says no
/// (`job.c:job_state_transition_locked`).
#[must_use]
pub const fn can_transition(from: JobStatus, to: JobStatus) -> bool {
    TRANSITIONS[from as usize].1.has(to)
}

/// Whether a job in this status accepts the verb (`job.c:job_apply_verb_locked`).
#[must_use]
pub const fn verb_allowed(verb: JobVerb, status: JobStatus) -> bool {
    VERBS[verb as usize].1.has(status)
}

/// The error (class GenericError) for a verb that the status forbids (`job.c:job_apply_verb_locked`).
#[must_use]
pub fn verb_refusal(id: &str, verb: JobVerb, status: JobStatus) -> String {
    format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'")
}

/// Lets the verb through or gives the error text.
///
/// # Errors
/// [`verb_refusal`]'s text if the status forbids the verb.
pub fn apply_verb(id: &str, verb: JobVerb, status: JobStatus) -> Result<(), String> {
    if verb_allowed(verb, status) { Ok(()) } else { Err(verb_refusal(id, verb, status)) }
}

impl JobVerb {
    /// All verbs, in enum order.
    pub const ALL: [JobVerb; 8] = [
        JobVerb::Cancel,
        JobVerb::Pause,
        JobVerb::Resume,
        JobVerb::SetSpeed,
        JobVerb::Complete,
        JobVerb::Dismiss,
        JobVerb::Finalize,
        JobVerb::Change,
    ];

    /// The name that error texts give it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            JobVerb::Cancel => "cancel",
            JobVerb::Pause => "pause",
            JobVerb::Resume => "resume",
            JobVerb::SetSpeed => "set-speed",
            JobVerb::Complete => "complete",
            JobVerb::Dismiss => "dismiss",
            JobVerb::Finalize => "finalize",
            JobVerb::Change => "change",
        }
    }
}

impl JobType {
    /// All types, in enum order.
    pub const ALL: [JobType; 9] = [
        JobType::Commit,
        JobType::Stream,
        JobType::Mirror,
        JobType::Backup,
        JobType::Create,
        JobType::Amend,
        JobType::SnapshotLoad,
        JobType::SnapshotSave,
        JobType::SnapshotDelete,
    ];

    /// The name QMP gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            JobType::Commit => "commit",
            JobType::Stream => "stream",
            JobType::Mirror => "mirror",
            JobType::Backup => "backup",
            JobType::Create => "create",
            JobType::Amend => "amend",
            JobType::SnapshotLoad => "snapshot-load",
            JobType::SnapshotSave => "snapshot-save",
            JobType::SnapshotDelete => "snapshot-delete",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<JobType> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Whether it is a block job: seen by query-block-jobs, commanded by block-job-* and reported by BLOCK_JOB_*
    /// events (`blockjob.c:is_block_job`).
    #[must_use]
    pub const fn is_block_job(self) -> bool {
        matches!(self, JobType::Commit | JobType::Stream | JobType::Mirror | JobType::Backup)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for JobVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for JobType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Rows and columns as a person reads them off QEMU's tables: `+` allowed, `.` refused; columns in enum order
    // undefined created running paused ready standby waiting pending aborting concluded null.
    const STT: [(&str, &str); 11] = [
        ("undefined", ".+........."),
        ("created", "..+.....+.+"),
        ("running", "...++.+.+.."),
        ("paused", "..+........"),
        ("ready", ".....++.+.."),
        ("standby", "....+......"),
        ("waiting", ".......++.."),
        ("pending", "........++."),
        ("aborting", "........++."),
        ("concluded", "..........+"),
        ("null", "..........."),
    ];
    const VERB_TABLE: [(&str, &str); 8] = [
        ("cancel", ".+++++++..."),
        ("pause", ".+++++....."),
        ("resume", ".+++++....."),
        ("set-speed", ".+++++....."),
        ("complete", "....++....."),
        ("dismiss", ".........+."),
        ("finalize", ".......+..."),
        ("change", ".+++++....."),
    ];

    #[test]
    fn every_transition_is_allowed_or_refused_as_in_qemu() {
        for (from, (name, row)) in JobStatus::ALL.into_iter().zip(STT) {
            assert_eq!(from.name(), name);
            assert_eq!(JobStatus::from_name(name), Some(from));
            assert_eq!(row.len(), JobStatus::ALL.len());
            for (to, mark) in JobStatus::ALL.into_iter().zip(row.chars()) {
                assert_eq!(can_transition(from, to), mark == '+', "{from} to {to}");
            }
        }
    }

    #[test]
    fn every_verb_is_allowed_or_refused_as_in_qemu() {
        for (verb, (name, row)) in JobVerb::ALL.into_iter().zip(VERB_TABLE) {
            assert_eq!(verb.name(), name);
            for (status, mark) in JobStatus::ALL.into_iter().zip(row.chars()) {
                assert_eq!(verb_allowed(verb, status), mark == '+', "{verb} in {status}");
                let refusal = format!("Job 'j0' in state '{status}' cannot accept command verb '{name}'");
                let expected = if mark == '+' { Ok(()) } else { Err(refusal) };
                assert_eq!(apply_verb("j0", verb, status), expected);
            }
        }
    }

    #[test]
    fn completed_and_ready_follow_from_the_status() {
        let completed: Vec<_> = JobStatus::ALL.iter().filter(|s| s.is_completed()).map(|s| s.name()).collect();
        assert_eq!(completed, ["waiting", "pending", "aborting", "concluded", "null"]);
        let ready: Vec<_> = JobStatus::ALL.iter().filter(|s| s.is_ready()).map(|s| s.name()).collect();
        assert_eq!(ready, ["ready", "standby"]);
        let block: Vec<_> = JobType::ALL.iter().filter(|t| t.is_block_job()).map(|t| t.name()).collect();
        assert_eq!(block, ["commit", "stream", "mirror", "backup"]);
    }

    #[test]
    fn whatever_is_not_null_can_come_to_an_end() {
        let mut reaches_null = vec![Null];
        for _ in JobStatus::ALL {
            for from in JobStatus::ALL {
                if !reaches_null.contains(&from) && reaches_null.iter().any(|to| can_transition(from, *to)) {
                    reaches_null.push(from);
                }
            }
        }
        assert_eq!(reaches_null.len(), JobStatus::ALL.len());
    }
}
