//! Quirks: bugs that some version of QEMU had, as switches; and a few bugs made for tests.
//!
//! The model looks at each quirk in one place, where it does the right thing without it. The museum (`docs/museum.md`,
//! `sim-scenarios/museum`) has a scenario for each.

use crate::base::nearest;
use crate::invariant::Invariant;
use crate::version::Version;
use crate::version::changes::{Change, Evidence};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Where a quirk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// QEMU had it.
    Qemu,
    /// QEMU 10.0.2 has it, and so has the model, unless it is switched off. What follows from it is reported under its name.
    Live,
    /// Made to break an invariant that no bug on record breaks.
    Seeded,
}

/// What is known of a quirk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuirkInfo {
    /// What is switched on.
    pub quirk: Quirk,
    /// Its name on the command line and in scenarios.
    pub name: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// The releases of QEMU that had it.
    pub versions: &'static str,
    /// The commit that fixed it, or the report.
    pub source: &'static str,
    /// What is wrong, in a sentence.
    pub says: &'static str,
    /// What it looks like to a user.
    pub looks_like: &'static str,
    /// The invariant that it breaks.
    pub breaks: Invariant,
}

macro_rules! quirks {
    ($($variant:ident = $name:literal, $origin:ident, $versions:literal, $source:literal, breaks $breaks:ident,
        $says:literal, $looks:literal;)*) => {
        /// A bug of some QEMU that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Quirk {
            $(#[doc = $says] $variant,)*
        }

        /// All quirks.
        pub const TABLE: &[QuirkInfo] = &[$(QuirkInfo {
            quirk: Quirk::$variant,
            name: $name,
            origin: Origin::$origin,
            versions: $versions,
            source: $source,
            says: $says,
            looks_like: $looks,
            breaks: Invariant::$breaks,
        },)*];
    };
}

quirks! {
    TxnStartInPrepare = "txn-start-in-prepare", Qemu, "2.5 – 2.7", "111049a4ec (2.8)", breaks GroupCompletion,
        "Jobs of a transaction are started while it is still being prepared.",
        "one of two grouped backups has nothing to copy and is COMPLETED, with its bitmap given up, before the other one is made and fails";
    TxnDanglingMember = "txn-dangling-member", Qemu, "2.5 – 2.7", "1e93b9fba2 (2.8)", breaks UsedAfterFree,
        "A job that is finalised is not taken off its group's list (it takes txn-start-in-prepare to finalise one early, and brings it along).",
        "a crash when the second of two grouped backups ends";
    TxnCleanupBeforeConverge = "txn-cleanup-before-converge", Qemu, "2.5 – 2.7", "e8a40bf71d (2.8)", breaks ComesToRest,
        "A job whose coroutine has ended closes its target, which polls, before it is marked as completed.",
        "QEMU hangs when two grouped backups end together and one of them failed";
    TxnCommitOnCancelledPeer = "txn-commit-on-cancelled-peer", Qemu, "2.5 – 2.11", "35d6b368f2 (2.12)", breaks GroupCompletion,
        "A job that was done, and is cancelled because another one of its group fails, still commits (backup's own second look, which hid this, is left out).",
        "the bitmap of one of two grouped backups is given up though the group failed";
    TxnUndoUnprepared = "txn-undo-unprepared", Qemu, "2.5 – 2.8", "184dd9c49b (2.9)", breaks NoAbort,
        "The undo of a bitmap's clearing runs although its preparation failed, before anything was saved.",
        "a crash on a transaction that clears a bitmap which is in use";
    TxnEarlyFailLeavesDrain = "txn-early-fail-leaves-drain", Qemu, "5.0 – 6.0", "2842ff2d81 (6.1), gitlab #399", breaks TransactionUndone,
        "A drive-backup that cannot be prepared leaves its drive drained.",
        "an error reply, and from then on all guest I/O on that drive hangs";
    RejectedBackupLeaksTarget = "rejected-backup-leaks-target", Qemu, "3.1 – 4.0", "4da26f138d (4.1), bug 1703916", breaks NothingLeft,
        "A drive-backup that is refused because its bitmap cannot be used keeps its target open.",
        "the image stays locked, and QEMU aborts when it quits";
    FinalizeTwiceAssert = "finalize-twice-assert", Qemu, "2.12", "37aa19b63c (3.0)", breaks NoAbort,
        "job-finalize asserts that the job is in a group before it looks at its status.",
        "a crash on the second job-finalize of a job that waits to be dismissed";
    CancelPausedOnErrorAssert = "cancel-paused-on-error-assert", Qemu, "3.0", "e321c0597c (3.1)", breaks NoAbort,
        "Cancelling a job clears `paused by the user` before the hook that asserts it.",
        "a crash when a job that an error has paused (policy stop) is cancelled";
    CancelledIncrementalAbdicates = "cancelled-incremental-abdicates", Qemu, "2.4 (release candidates)", "17d9716d7b (2.4)", breaks BitmapAfterJob,
        "A cancelled incremental backup counts as done when its bitmap is put away.",
        "the next incremental backup lacks what the cancelled one did not copy";
    CopyRangeRecopiesClean = "copy-range-recopies-clean", Qemu, "3.0 – 4.0", "4a5b91ca02 (4.1)", breaks BackupContent,
        "With copy offloading, then the default, a copy takes the whole of a range of which only the first cluster was looked at.",
        "what a guest wrote into the middle of the range meanwhile is in the backup";
    DiscardBypassesCbw = "discard-bypasses-cbw", Qemu, "1.6 – 2.6", "ec050f77a5 (2.7)", breaks BackupContent,
        "A guest's discard is not held up until a running backup has the data.",
        "zeroes in the backup";
    DiscardNotDirty = "discard-not-dirty", Qemu, "2.0 – 2.3", "508249952c (2.4)", breaks BitmapCovers,
        "A discard does not set the dirty bits (it cleared them).",
        "an incremental backup still has what was discarded";
    TargetClusterLarger = "target-cluster-larger", Qemu, "2.4 – 2.5", "4c9bca7e39 (2.6)", breaks BackupContent,
        "Backups copy in units of 64 KiB, even to a target with larger clusters and no backing file.",
        "in a restored chain the rest of such a cluster is zero";
    UnalignedTail = "unaligned-tail", Qemu, "5.1", "7661a886a1 (5.2)", breaks NoAbort,
        "The last piece of a disk whose length is no multiple of the copy unit is not rounded up.",
        "a crash when a backup of such a disk reaches its end";
    BackupSizeMismatch = "backup-size-mismatch", Qemu, "4.2 – 5.0", "958a04bd32 (5.1), bug 1778593", breaks NoAbort,
        "The sizes of source and target are not compared.",
        "a crash when a backup to a smaller target reaches its end";
    BlkdebugOnceRearms = "blkdebug-once-rearms", Qemu, "0.15 – 2.2", "a069e2f137 (2.3)", breaks FaultsOnce,
        "A blkdebug rule with `once` is armed again by the next event.",
        "a retry after an error that was injected once fails again";
    FlushFailedMarksClean = "flush-failed-marks-clean", Qemu, "2.7", "e6af1e0854 (2.8)", breaks Flushed,
        "A flush that failed is remembered as done.",
        "the next flush succeeds without flushing; what was written is lost when the host loses power";
    BusyBitmapUnguarded = "busy-bitmap-unguarded", Qemu, "3.0", "b053bb5573 (3.1)", breaks NoAbort,
        "Enabling or disabling a bitmap in a transaction does not look whether it is in use.",
        "a crash when a backup uses the bitmap";
    BitmapAddUndoAfterAbdicate = "bitmap-add-undo-after-abdicate", Qemu, "4.2 – 10.0.2, and 11.1.3", "none yet", breaks UsedAfterFree,
        "Undoing block-dirty-bitmap-add releases the bitmap that it made, though a job with bitmap-mode=always has replaced it when it was cancelled.",
        "a crash on a transaction of block-dirty-bitmap-add, drive-backup with that bitmap and bitmap-mode=always, and anything that fails";
    SeededVerbInAnyStatus = "seeded-verb-in-any-status", Seeded, "", "", breaks JobTables,
        "A job takes job-pause in any status.", "job-pause of a job that is pending succeeds";
    SeededCopiesWhilePaused = "seeded-copies-while-paused", Seeded, "", "", breaks PausedQuiet,
        "A job that pauses does not end its copying.", "a paused job goes on writing";
    SeededDrainDoesNotWait = "seeded-drain-does-not-wait", Seeded, "", "", breaks Drained,
        "A drained section begins without waiting for requests under way.", "a backup that begins while a guest writes";
    SeededLostZeroes = "seeded-lost-zeroes", Seeded, "", "", breaks LastWrite,
        "A write of zeroes to a qcow2 image does nothing.", "a guest reads what it had overwritten";
    SeededTwoEnds = "seeded-two-ends", Seeded, "", "", breaks JobEvents,
        "A job sends its last event again when it is dismissed by hand.", "two BLOCK_JOB_COMPLETED for one job";
    TxnAbortFifo = "txn-abort-fifo", Qemu, "2.5 – 3.1", "f4de0f8c40 (4.0)", breaks TransactionUndone,
        "A transaction that fails undoes its actions oldest first.",
        "a bitmap that two of the actions changed comes back with what the first one left, and the next incremental backup lacks clusters";
    GroupedUndoWaitsForUnstarted = "grouped-undo-waits-for-unstarted", Qemu, "10.0.2 (others not tried)", "none yet", breaks ComesToRest,
        "Undoing a grouped transaction waits for a job that was never started, as one of its group was cancelled.",
        "QEMU hangs on a grouped transaction of two backups and a third that is refused";
    DropFilterOverFreedNode = "drop-filter-over-freed-node", Qemu, "10.0.2 (others not tried)", "none yet", breaks NoAbort,
        "A backup that ends drains the node below its filter; if that is another backup's filter, and that job ends meanwhile, it goes on with what was freed.",
        "a crash when two backups of one node end at about the same time";
    MirrorStartupMissedWrite = "mirror-startup-missed-write", Live, "8.2 – 10.2.1", "167ef239fb, gitlab #3273", breaks PivotContent,
        "What a guest writes while a mirror looks for what is allocated is recorded by nobody: dirty tracking was switched off, and the filter does not know its job yet.",
        "the job succeeds, and the disk lacks the write after the pivot";
    FilterSwallowsDiscard = "filter-swallows-discard", Live, "10.0.2 (others not tried)", "none yet", breaks DiscardArrives,
        "The filter of a job is opened without discard=unmap, so that a guest's discard ends there and succeeds.",
        "images do not shrink while a job runs on them";
    MirrorFailedPivot = "mirror-failed-pivot", Live, "10.0.2 (others not tried)", "none yet", breaks FailedChain,
        "A drive-mirror with mode=existing that cannot open its target's backing file fails, and moves the device to the target all the same.",
        "COMPLETED with an error, and the guest reads zeroes where the backing file had data";
    StreamHalfDone = "stream-half-done", Live, "10.0.2 (others not tried)", "none yet", breaks FailedChain,
        "A stream that cannot write the header of its image has let go of the backing files before.",
        "COMPLETED with an error, and the header names a backing file that the node does not have";
    MirrorDuplicateComplete = "mirror-duplicate-complete", Live, "10.0.2 (others not tried)", "9ac85f4cc7", breaks NoAbort,
        "A second job-complete of a mirror with `replaces` blocks the node that is to be replaced once more.",
        "a crash when a paused mirror that is READY is told twice to complete";
    MirrorReadyTwice = "mirror-ready-twice", Qemu, "up to 6.1", "a3810da5cf (6.2)", breaks ReadyOnce,
        "An error makes a mirror forget that it was READY before (from 2.12 on an assertion stopped it there).",
        "a second BLOCK_JOB_READY after the error was dealt with";
    MirrorZeroLengthSkipsReady = "mirror-zero-length-skips-ready", Qemu, "up to 2.0", "9e48b02540 (2.1)", breaks ReadyOnce,
        "A mirror of an empty disk ends at once.",
        "COMPLETED without BLOCK_JOB_READY, and no pivot";
    MirrorUnalignedActiveWrite = "mirror-unaligned-active-write", Qemu, "3.0 – 4.0", "9adc1cb49a (4.1)", breaks ActivelySynced,
        "A guest's write that goes to both sides clears the dirty bits of all granules that it touches.",
        "the rest of such a granule is not copied";
    MirrorConflictDeadlock = "mirror-conflict-deadlock", Qemu, "3.0 – 6.0", "d44dae1a7c (6.1)", breaks ComesToRest,
        "A guest's write waits for another one that itself waits.",
        "overlapping writes and the job hang for ever, with copy-mode=write-blocking";
    MirrorWaitsForItself = "mirror-waits-for-itself", Qemu, "3.0 – 4.2", "ce8cabbd17 (5.0), bug 1794692", breaks ComesToRest,
        "An operation without buffers waits for the oldest one, which may be itself.",
        "the job hangs with a small buf-size";
    MirrorSwitchWindow = "mirror-switch-window", Qemu, "up to 2.5", "ab27c3b5e7 (2.6), bug 1570134", breaks PivotContent,
        "The source is drained for the last look, and not until the target has taken its place.",
        "a guest's write between the two is lost";
    MirrorTrustsExistingTarget = "mirror-trusts-existing-target", Qemu, "up to 4.1", "cdf3bc934a (4.2)", breaks PivotContent,
        "What the source does not have is not copied, as if the target were new.",
        "what was in the target before shines through";
    MirrorExitTwice = "mirror-exit-twice", Qemu, "3.1 – 4.1", "f93c3add3a (4.2)", breaks NoAbort,
        "The end of a mirror runs again to abort the job when it has failed itself.",
        "a crash when the target cannot take the place of the source";
    CommitLeavesBaseWritable = "commit-leaves-base-writable", Qemu, "3.1 – 9.0", "7d99ae59a2 (9.1)", breaks FailedChain,
        "The commit of an active layer that is aborted does not make its base read-only again.",
        "a backing file stays writable";
    CompleteRefusedInStandby = "complete-refused-in-standby", Qemu, "2.12 – 5.2", "53ddb9c892 (6.0), bug 1945635", breaks JobTables,
        "job-complete is refused while the job is paused, also by a drained section that nobody asked for.",
        "`Job in state 'standby' cannot accept command verb 'complete'`";
    SeededCancelledMirrorPivots = "seeded-cancelled-mirror-pivots", Seeded, "", "", breaks CancelledMirror,
        "A mirror that is cancelled without force moves the device to its target.", "a disk in another image after block-job-cancel";
    SeededCommitDropsPiece = "seeded-commit-drops-piece", Seeded, "", "", breaks CommitContent,
        "A commit does not write what it reads behind the first piece.", "old data after the commit";
    SeededStreamDropsPiece = "seeded-stream-drops-piece", Seeded, "", "", breaks StreamContent,
        "A stream does not copy what it finds behind the first piece.", "zeroes after the stream";
    NbdStopForgetsClients = "nbd-stop-forgets-clients", Qemu, "1.3 – 9.0", "CVE-2024-7409 (9.1)", breaks NoAbort,
        "nbd-server-stop does not end connections that have not negotiated, and does not wait for them.",
        "a crash when such a client leaves: `nbd_blockdev_client_closed: Assertion 'nbd_server' failed`";
    NbdReconnectTimerOutlives = "nbd-reconnect-timer-outlives", Qemu, "6.1 – 6.2", "`nbd: Delete reconnect delay timer when done` (7.0)", breaks UsedAfterFree,
        "The timer of reconnect-delay stays when the server is found again, and when the node is closed.",
        "a crash some time after a node was deleted whose server had been away";
    NbdOpenTimerOutlives = "nbd-open-timer-outlives", Qemu, "6.2", "`nbd: Delete open timer when done` (7.0)", breaks UsedAfterFree,
        "The timer of open-timeout stays when the server is found, and when the node is closed.",
        "a crash some time after a node was deleted that was opened with open-timeout";
    NbdReconnectSleepsInDrain = "nbd-reconnect-sleeps-in-drain", Qemu, "4.2 – 5.0", "`block/nbd: nbd_co_reconnect_loop(): don't sleep if drained` (5.1)", breaks ComesToRest,
        "In a drained section the search for the server stands still, and so does the time after which waiting requests fail.",
        "QEMU hangs when something is drained while a job waits for a server that is away";
    NbdStatusBetweenSectors = "nbd-status-between-sectors", Qemu, "2.12 – 3.1", "`nbd/client: Lower min_block for block-status, unaligned size` (4.0)", breaks NoAbort,
        "Block status of a server that tells no block sizes is taken as it comes, though the node promises whole sectors.",
        "a crash when a job asks for the end of an image whose length is no multiple of a sector: `bdrv_co_block_status: Assertion '*pnum && QEMU_IS_ALIGNED(*pnum, align)' failed`";
    NbdBitmapOutlivesItsNode = "nbd-bitmap-outlives-its-node", Live, "7.2 – 11.1.3", "none yet", breaks NoAbort,
        "An export of a bitmap does not hold the node that has it, if that is another one than it exports.",
        "a crash on blockdev-del of that node: `bdrv_release_dirty_bitmap_locked: Assertion '!bdrv_dirty_bitmap_busy(bitmap)' failed`";
}

impl Quirk {
    /// How its mending is called: what is in force by default has to be switched off.
    pub const MENDED: &str = "no-";
    /// What is known of it.
    #[must_use]
    pub fn about(self) -> &'static QuirkInfo {
        &TABLE[self as usize]
    }

    /// Whether it is in force by default, in 10.0 or in an older version.
    #[must_use]
    pub fn is_live(self) -> bool {
        EVER_LIVE & 1 << self as u64 != 0
    }

    /// In which of the versions that are simulated it is alive, and how that is known; `None` if it was mended before the first of them, or
    /// was made for tests.
    #[must_use]
    pub fn alive(self) -> Option<(Version, Version, Evidence)> {
        ALIVE.iter().find(|(quirk, ..)| *quirk == self).map(|(_, first, last, evidence)| (*first, *last, *evidence))
    }

    /// The name, as on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.about().name
    }
}

impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quirk {
    type Err = String;

    fn from_str(name: &str) -> Result<Quirk, String> {
        let known = TABLE.iter().find(|about| about.name == name);
        known.map(|about| about.quirk).ok_or_else(|| {
            let names: Vec<&str> = TABLE.iter().map(|about| about.name).collect();
            let near = nearest(name, &names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            format!("`{name}` is no quirk: {near}`blockjob-sim quirks` lists all {}", names.len())
        })
    }
}

/// Why an invariant does not hold, where that is known to be QEMU 10.0.2's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KnownCause {
    /// A bug that can be switched off.
    Quirk(Quirk),
    /// What this page of `docs/findings` describes.
    Page(&'static str),
}

impl fmt::Display for KnownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KnownCause::Quirk(quirk) => quirk.fmt(f),
            KnownCause::Page(page) => f.write_str(page),
        }
    }
}

impl From<Quirk> for KnownCause {
    fn from(quirk: Quirk) -> KnownCause {
        KnownCause::Quirk(quirk)
    }
}

/// A quirk that is switched on, or one of those that are in force by default switched off: `NAME`, `no-NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It is in force, and what it breaks counts as broken.
    On(Quirk),
    /// It is not in force, though QEMU 10.0.2 has it.
    Mended(Quirk),
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(name: &str) -> Result<Switch, String> {
        let live = |name: &&str| name.parse::<Quirk>().is_ok_and(Quirk::is_live);
        match name.strip_prefix(Quirk::MENDED).filter(live) {
            Some(name) => name.parse().map(Switch::Mended),
            None => name.parse().map(Switch::On),
        }
    }
}

/// In which of the versions that are simulated a bug is alive, from the first to the last, both included, and whether real ones were
/// seen to have it and not to have it. What is not listed was mended before the first of them.
const ALIVE: &[(Quirk, Version, Version, Evidence)] = &[
    (Quirk::BitmapAddUndoAfterAbdicate, Version::V8_2, Version::V11_1, Evidence::Measured),
    (Quirk::GroupedUndoWaitsForUnstarted, Version::V7_2, Version::V11_1, Evidence::Measured),
    (Quirk::DropFilterOverFreedNode, Version::V8_2, Version::V10_0, Evidence::Measured),
    (Quirk::MirrorStartupMissedWrite, Version::V8_2, Version::V10_0, Evidence::Read),
    (Quirk::FilterSwallowsDiscard, Version::V7_2, Version::V11_1, Evidence::Read),
    (Quirk::MirrorFailedPivot, Version::V7_2, Version::V11_1, Evidence::Read),
    (Quirk::StreamHalfDone, Version::V7_2, Version::V11_1, Evidence::Read),
    (Quirk::MirrorDuplicateComplete, Version::V7_2, Version::V10_0, Evidence::Read),
    (Quirk::CommitLeavesBaseWritable, Version::V7_2, Version::V8_2, Evidence::Read),
    (Quirk::NbdBitmapOutlivesItsNode, Version::V7_2, Version::V11_1, Evidence::Measured),
];

/// The quirks that are in force by default in a version: of those that are alive in it the ones that the model has by default in 10.0, and
/// those that 10.0 does not have any more.
const fn live(version: Version) -> u64 {
    let (mut bits, mut i) = (0, 0);
    while i < ALIVE.len() {
        let (quirk, first, last, _) = ALIVE[i];
        let within = first as u8 <= version as u8 && version as u8 <= last as u8;
        let by_default = matches!(TABLE[quirk as usize].origin, Origin::Live) || (last as u8) < Version::V10_0 as u8;
        if within && by_default {
            bits |= 1 << quirk as u64;
        }
        i += 1;
    }
    bits
}

/// [`live`] of each version.
const LIVE: [u64; Version::ALL.len()] = {
    let (mut bits, mut i) = ([0; Version::ALL.len()], 0);
    while i < bits.len() {
        bits[i] = live(Version::ALL[i]);
        i += 1;
    }
    bits
};

/// What can be in force without being switched on, in whatever version.
const EVER_LIVE: u64 = LIVE[0] | LIVE[1] | LIVE[2] | LIVE[3] | LIVE[4];

/// Which QEMU it is: a version, and the quirks that are switched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quirks {
    /// Switched on.
    on: u64,
    /// Of those that are in force by default, switched off.
    mended: u64,
    /// The version, if one was asked for.
    version: Option<Version>,
}

impl Hash for Quirks {
    /// The version counts where it is not the usual one, so that states of the usual one are called what they were called before there
    /// were others.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.on, self.mended).hash(state);
        if self.version.is_some() {
            self.version.hash(state);
        }
    }
}

impl Quirks {
    /// Nothing is switched: what QEMU 10.0.2 does, or is meant to do where it crashes.
    pub const NONE: Quirks = Quirks { on: 0, mended: 0, version: None };

    /// The same of another version; without one, of the usual one.
    #[must_use]
    pub fn of(self, version: Option<Version>) -> Quirks {
        Quirks { version, ..self }
    }

    /// The version that was asked for.
    #[must_use]
    pub fn asked(self) -> Option<Version> {
        self.version
    }

    /// The version of QEMU that is simulated.
    #[inline]
    #[must_use]
    pub fn version(self) -> Version {
        self.version.unwrap_or_default()
    }

    /// Whether a change had come when this version was released.
    #[inline]
    #[must_use]
    pub fn since(self, change: Change) -> bool {
        self.version().has(change)
    }

    /// Whether a quirk is in force.
    #[inline]
    #[must_use]
    pub fn has(self, quirk: Quirk) -> bool {
        (self.on | LIVE[self.version() as usize] & !self.mended) & 1 << quirk as u64 != 0
    }

    /// Whether what follows from a quirk is a failure: it was switched on. What follows from one that is in force by default is a finding.
    #[must_use]
    pub fn counts(self, quirk: Quirk) -> bool {
        self.on & 1 << quirk as u64 != 0
    }

    /// The set with one more, and with what that one cannot do without.
    #[must_use]
    pub fn with(self, quirk: Quirk) -> Quirks {
        let bit = 1 << quirk as u64;
        let set = Quirks { on: self.on | bit, mended: self.mended & !bit, ..self };
        if quirk == Quirk::TxnDanglingMember { set.with(Quirk::TxnStartInPrepare) } else { set }
    }

    /// The set without one; one that is in force by default is mended.
    #[must_use]
    pub fn without(self, quirk: Quirk) -> Quirks {
        let bit = 1 << quirk as u64;
        Quirks { on: self.on & !bit, mended: self.mended | bit & EVER_LIVE, ..self }
    }

    /// The set with a switch thrown.
    #[must_use]
    pub fn switched(self, switch: Switch) -> Quirks {
        match switch {
            Switch::On(quirk) => self.with(quirk),
            Switch::Mended(quirk) => self.without(quirk),
        }
    }

    /// Nothing of what QEMU 10.0.2 does wrong by default.
    #[must_use]
    pub fn mended() -> Quirks {
        Quirks { mended: EVER_LIVE, ..Quirks::NONE }
    }

    /// What is switched in either set, of the version that `over` asks for, if it asks for one.
    #[must_use]
    pub fn union(self, over: Quirks) -> Quirks {
        let on = self.on | over.on;
        Quirks { on, mended: (self.mended | over.mended) & !on, version: over.version.or(self.version) }
    }

    /// Whether nothing is switched.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.of(None) == Quirks::NONE
    }

    /// The quirks that are switched on, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Quirk> {
        TABLE.iter().map(|about| about.quirk).filter(move |quirk| self.counts(*quirk))
    }

    /// What is switched, as it is written: those that are on, then those that are mended.
    pub fn names(self) -> impl Iterator<Item = String> {
        let mended = TABLE.iter().filter(move |about| self.mended & 1 << about.quirk as u64 != 0);
        let mended = mended.map(|about| format!("{}{}", Quirk::MENDED, about.name));
        self.iter().map(|quirk| quirk.name().to_owned()).chain(mended)
    }
}

impl FromIterator<Switch> for Quirks {
    fn from_iter<T: IntoIterator<Item = Switch>>(switches: T) -> Quirks {
        switches.into_iter().fold(Quirks::NONE, Quirks::switched)
    }
}

impl FromIterator<Quirk> for Quirks {
    fn from_iter<T: IntoIterator<Item = Quirk>>(quirks: T) -> Quirks {
        quirks.into_iter().fold(Quirks::NONE, Quirks::with)
    }
}

impl fmt::Display for Quirks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_find_their_quirks() {
        assert!(TABLE.len() <= 64, "a set is one word");
        for (i, about) in TABLE.iter().enumerate() {
            assert_eq!(about.quirk as usize, i);
            assert_eq!(about.name.parse(), Ok(about.quirk));
            assert!(about.says.ends_with('.'), "{}", about.name);
        }
        assert!("no-such-quirk".parse::<Quirk>().unwrap_err().contains("`blockjob-sim quirks` lists all"));
    }

    /// What the table says in words of releases and what it says of the versions that are simulated.
    #[test]
    fn a_quirk_is_alive_where_its_releases_say() {
        for about in TABLE {
            let alive = about.quirk.alive();
            if about.origin == Origin::Seeded {
                assert_eq!(alive, None, "{}", about.name);
                continue;
            }
            // "up to 6.1", "3.1 – 9.0": the last release that had it.
            let last = about.versions.rsplit(['–', ' ']).next().unwrap_or_default().trim();
            let numbers: Vec<u8> = last.split('.').filter_map(|n| n.parse().ok()).collect();
            let Some((&major, &minor)) = numbers.first().zip(numbers.get(1)) else { continue };
            let expected = Version::ALL.into_iter().rev().find(|v| (v.numbers().0, v.numbers().1) <= (major, minor));
            match (alive, expected) {
                (None, None) => {}
                (Some((first, last, _)), Some(expected)) => {
                    assert!(first <= last && last >= expected, "{}: {last}, {expected}", about.name);
                }
                // The last release of a branch can have what came with a later one.
                (None, Some(_)) => assert_eq!(about.quirk, Quirk::NbdStopForgetsClients),
                (Some(_), None) => panic!("{} was mended before the first version", about.name),
            }
        }
    }

    #[test]
    fn a_version_has_what_was_alive_in_it() {
        let of = |version| Quirks::NONE.of(Some(version));
        assert!(
            of(Version::V7_2).has(Quirk::CommitLeavesBaseWritable)
                && !Quirks::NONE.has(Quirk::CommitLeavesBaseWritable)
        );
        assert!(
            !of(Version::V7_2).has(Quirk::MirrorStartupMissedWrite)
                && of(Version::V9_1).has(Quirk::MirrorStartupMissedWrite)
        );
        assert!(
            !of(Version::V11_1).has(Quirk::MirrorDuplicateComplete) && Quirks::NONE.has(Quirk::MirrorDuplicateComplete)
        );
        let by_default = TABLE.iter().filter(|about| Quirks::NONE.has(about.quirk));
        assert!(by_default.eq(TABLE.iter().filter(|about| about.origin == Origin::Live)), "of 10.0 nothing changed");
        // What crashes 10.0 is not modelled by default, in no version.
        assert!(Version::ALL.iter().all(|version| !of(*version).has(Quirk::BitmapAddUndoAfterAbdicate)));
    }

    #[test]
    fn sets() {
        let one = Quirks::NONE.with(Quirk::TxnAbortFifo);
        assert!(one.has(Quirk::TxnAbortFifo) && !Quirks::NONE.has(Quirk::TxnAbortFifo));
        assert_eq!(one.iter().collect::<Quirks>(), one);
        assert_eq!(one.without(Quirk::TxnAbortFifo), Quirks::NONE);
        assert_eq!(one.to_string(), "txn-abort-fifo");
    }

    #[test]
    fn what_is_in_force_by_default_counts_only_if_it_is_asked_for() {
        let quirk = Quirk::FilterSwallowsDiscard;
        assert!(Quirks::NONE.has(quirk) && !Quirks::NONE.counts(quirk));
        let on = Quirks::NONE.with(quirk);
        assert!(on.has(quirk) && on.counts(quirk) && on != Quirks::NONE);
        let off: Quirks = ["no-filter-swallows-discard".parse::<Switch>().unwrap()].into_iter().collect();
        assert!(!off.has(quirk) && !off.is_empty());
        assert_eq!(off.to_string(), "no-filter-swallows-discard");
        assert_eq!((off.union(on), on.without(quirk), off.with(quirk)), (on, off, on));
        assert!("no-txn-abort-fifo".parse::<Switch>().is_err(), "it is off unless it is switched on");
    }
}
