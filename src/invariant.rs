//! The invariants by name: what must hold in every run. [`crate::check`] watches them from outside.

use std::fmt;

/// Makes the enum and its table from one list, so that neither can lack an entry.
macro_rules! invariants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $says:literal;)*) => {
        /// Something that must hold in every run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $(#[doc = $says] $variant,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &[Invariant] = &[$(Invariant::$variant,)*];

            /// Its name in scenarios and reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Invariant::$variant => $name,)*
                }
            }

            /// What it says, in a sentence.
            #[must_use]
            pub fn says(self) -> &'static str {
                match self {
                    $(Invariant::$variant => $says,)*
                }
            }
        }
    };
}

invariants! {
    UsedAfterFree = "used-after-free", "Nothing is used after it was freed: job, group, node, edge, bitmap, copy call.";
    JobTables = "job-tables", "Each change of a job's status is in the table of transitions, each verb is taken or refused as the table of verbs says.";
    JobEvents = "job-events", "A started job has one COMPLETED or CANCELLED, then `concluded`, then `null`, then nothing; one that was never started has none; an offset never exceeds its length, is the length on success, and does not go back.";
    NoAbort = "no-abort", "The process does not abort: no assertion of QEMU's fails, no null pointer is followed.";
    GroupCompletion = "group-completion", "The jobs of a group all commit or all abort; for each job commit or abort, then clean, then its last event come once and in this order.";
    BackupContent = "backup-content", "The target of a backup that succeeded reads as the source did when the job began, unless somebody else wrote to it.";
    BitmapCovers = "bitmap-covers", "A bitmap that records has every write since it was cleared, and a chain of incremental backups restores the drive.";
    BitmapAfterJob = "bitmap-after-job", "A job that fails leaves its bitmap as it was and what was written since; one that succeeds gives it up as bitmap-mode says; it is not left in use.";
    PausedQuiet = "paused-quiet", "A job that is paused copies nothing.";
    Drained = "drained", "On a drained node nothing is under way, and nothing begins until the section ends.";
    LastWrite = "last-write", "A guest reads what was last written.";
    Flushed = "flushed", "A flush that succeeds has flushed what was written before it.";
    FaultsOnce = "faults-once", "A blkdebug rule with `once` fires once.";
    NothingLeft = "nothing-left", "Nothing is left of a job that was dismissed, nor at rest of anything that nobody holds: nodes, blockers, edges, busy bitmaps, groups, drained sections, requests.";
    ComesToRest = "comes-to-rest", "Every job that was started comes to rest once faults and clients stop, unless it waits for its user.";
    TransactionUndone = "transaction-undone", "A transaction that fails leaves bitmaps, jobs and drained sections as they were.";
    PivotContent = "pivot-content", "After a pivot the device reads as before it: what takes the place of a mirror's source, or of an active layer that was committed, reads as that did.";
    CancelledMirror = "cancelled-mirror", "A mirror, or the commit of an active layer, that is cancelled leaves the device on its source, which reads as its guest left it.";
    CommitContent = "commit-content", "A commit never loses a guest's byte: the chain reads after it as before.";
    StreamContent = "stream-content", "A stream never changes what its node reads as.";
    FailedChain = "failed-chain", "A mirror, commit or stream that fails leaves the chain that it found: the same nodes, as writable as before, and it reads the same.";
    ReadyOnce = "ready-once", "READY is said once of a mirror or of the commit of an active layer, and before it succeeds.";
    ActivelySynced = "actively-synced", "With copy-mode=write-blocking, source and target agree while `actively-synced` is true and no request is under way.";
    DiscardArrives = "discard-arrives", "A guest's discard that succeeds was passed on to its node, if that and what the user put above it take discards.";
}

impl Invariant {
    /// The invariant of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Invariant> {
        Invariant::ALL.iter().copied().find(|invariant| invariant.name() == name)
    }
}

/// An invariant that does not hold, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broken {
    /// Which one.
    pub invariant: Invariant,
    /// The thing it does not hold for: `job drive0`, `bitmap b of node0`.
    pub subject: String,
    /// What was expected and what was found.
    pub reason: String,
    /// The page of `docs/findings` that describes it, if it is a known defect of QEMU 10.0.2: one of [`PAGES`].
    pub page: Option<&'static str>,
}

/// Pages of `docs/findings` about what a run can be ended by, or be said to have met: defects of QEMU 10.0.2 that the model has too.
pub const PAGES: [&str; 31] = [
    "aborted-snapshot-below-a-backup",
    "backup-below-a-growing-format",
    "base-taken-from-a-mirror",
    "bitmap-of-another-size",
    "commit-cannot-write-its-header",
    "commit-of-a-shorter-image",
    "copy-on-read-above-its-bottom",
    "ignored-errors-starve-the-monitor",
    "inactive-node-in-use",
    "mirror-by-small-granules",
    "mirror-change-during-its-flush",
    "mirror-counts-whole-clusters",
    "mirror-duplicate-complete",
    "mirror-forgives-a-failed-write",
    "mirror-of-a-node-made-shorter",
    "mirror-with-a-small-buffer",
    "node-of-an-exported-bitmap",
    "overlay-below-a-backup-filter",
    "partial-write-of-an-active-mirror",
    "pending-mirror-blocks-the-monitor",
    "qemu-io-as-a-commit-ends",
    "qemu-io-without-a-medium",
    "qom-set-same-drive",
    "query-after-a-stream",
    "reads-undone-below-a-stream",
    "reopen-above-a-commit",
    "reopen-as-a-mirror-ends",
    "smaller-below-a-filter",
    "snapshot-as-a-backup-ends",
    "stream-below-a-mirror",
    "stream-past-a-shorter-image",
];

/// One of [`PAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FindingPage(u8);

impl FindingPage {
    /// The page of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<FindingPage> {
        PAGES.iter().position(|page| *page == name).and_then(|at| u8::try_from(at).ok()).map(FindingPage)
    }

    /// Its file name in `docs/findings`, without `.md`.
    #[must_use]
    pub fn name(self) -> &'static str {
        PAGES[usize::from(self.0)]
    }
}

/// How a page is named behind what it describes.
#[must_use]
pub fn in_words(page: &str) -> String {
    format!(" (docs/findings/{page}.md)")
}

const PREFIX: &str = "broken invariant ";

/// How a reason begins where the process follows a bad pointer, instead of failing an assertion.
const BAD_POINTER: &str = "a bad pointer: ";

impl Broken {
    /// Notes it.
    pub fn new(invariant: Invariant, subject: impl Into<String>, reason: impl Into<String>) -> Broken {
        Broken { invariant, subject: subject.into(), reason: reason.into(), page: None }
    }

    /// The same as a defect of QEMU 10.0.2 that this page of `docs/findings` describes.
    #[must_use]
    pub fn known(self, page: &'static str) -> Broken {
        assert!(PAGES.contains(&page), "{page} is none of the pages");
        Broken { page: Some(page), ..self }
    }

    /// [`Invariant::NoAbort`], where the process follows a pointer to nothing.
    pub fn bad_pointer(subject: impl Into<String>, reason: &str) -> Broken {
        Broken::new(Invariant::NoAbort, subject, format!("{BAD_POINTER}{reason}"))
    }

    /// The signals that end a QEMU in which this is broken. None: it goes on, or exits by itself. What is done with freed memory is
    /// not defined: glibc may notice, an assertion may fail, a pointer in it may lead to nothing.
    #[must_use]
    pub fn signals(&self) -> &'static [&'static str] {
        match self.invariant {
            Invariant::NoAbort if self.reason.starts_with(BAD_POINTER) => &["SIGSEGV"],
            Invariant::NoAbort => &["SIGABRT"],
            Invariant::UsedAfterFree => &["SIGSEGV", "SIGABRT", "SIGBUS"],
            _ => &[],
        }
    }

    /// Takes one out of the message of a panic: where QEMU would abort, the process ends with [`Broken`] as its message.
    #[must_use]
    pub fn from_panic(message: &str) -> Option<Broken> {
        let (name, rest) = message.strip_prefix(PREFIX)?.split_once(": ")?;
        let (subject, reason) = rest.split_once(": ")?;
        let page = PAGES.iter().copied().find(|page| reason.ends_with(&in_words(page)));
        let reason = page.map_or(reason, |page| reason.strip_suffix(&in_words(page)).unwrap_or(reason));
        Some(Broken { page, ..Broken::new(Invariant::find(name)?, subject, reason) })
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}: {}: {}", self.invariant.name(), self.subject, self.reason)?;
        self.page.map_or(Ok(()), |page| f.write_str(&in_words(page)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_invariants() {
        for invariant in Invariant::ALL {
            assert_eq!(Invariant::find(invariant.name()), Some(*invariant));
            assert!(invariant.says().ends_with('.'), "{}", invariant.name());
        }
    }

    #[test]
    fn pages_find_themselves() {
        for page in PAGES {
            assert_eq!(FindingPage::find(page).map(FindingPage::name), Some(page));
        }
        assert_eq!(FindingPage::find("no-such-page"), None);
    }

    #[test]
    fn a_panic_keeps_what_was_broken() {
        let broken = Broken::new(Invariant::UsedAfterFree, "job1", "it was freed: and used");
        assert_eq!(Broken::from_panic(&broken.to_string()), Some(broken.clone()));
        let known = broken.known("query-after-a-stream");
        assert_eq!(Broken::from_panic(&known.to_string()), Some(known));
        assert_eq!(Broken::from_panic("index out of bounds"), None);
    }
}
