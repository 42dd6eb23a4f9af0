//! Marks: what a run has reached, of all that is worth reaching.
//!
//! They are noted while somebody watches the feed, are never read by the world, and are no part of its state: worlds that differ in
//! nothing else are equal.

use super::feed::Seen;
use crate::job::status::{JobStatus, JobVerb};
use crate::trace::TxnPhase;
use std::hash::{Hash, Hasher};

/// Statuses of jobs.
const STATUSES: usize = JobStatus::ALL.len();

/// Verbs, in enum order.
const VERBS: [JobVerb; 8] = [
    JobVerb::Cancel,
    JobVerb::Pause,
    JobVerb::Resume,
    JobVerb::SetSpeed,
    JobVerb::Complete,
    JobVerb::Dismiss,
    JobVerb::Finalize,
    JobVerb::Change,
];

/// Steps of transactions.
const PHASES: [TxnPhase; 5] = [TxnPhase::Prepare, TxnPhase::Refuse, TxnPhase::Commit, TxnPhase::Abort, TxnPhase::Clean];

/// Actions that are simulated.
const ACTIONS: [&str; 11] = [
    "abort",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-remove",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-enable",
    "block-dirty-bitmap-disable",
    "block-dirty-bitmap-merge",
    "blockdev-backup",
    "blockdev-snapshot",
    "blockdev-snapshot-sync",
    "drive-backup",
];

/// Places in the code that are worth reaching: what each is, and whether a campaign need not reach it.
macro_rules! places {
    ($($(#[$doc:meta])* $place:ident = $says:literal $(, $rare:ident)?;)+) => {
        /// A place in the code that is worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CodePlace {
            $(#[doc = $says] $place,)+
        }

        /// What they say, and whether they are rare, in their order.
        const PLACES: &[(&str, bool)] = &[$(($says, places!(@rare $($rare)?)),)+];
    };
    (@rare) => { false };
    (@rare rare) => { true };
}

places! {
    UndoJob = "undo: a backup's job is cancelled";
    UndoBitmapAdded = "undo: an added bitmap goes";
    UndoBitmapSuperseded = "undo: an added bitmap goes that a job has replaced", rare;
    UndoBitmapRestored = "undo: a cleared or merged bitmap is restored";
    UndoBitmapSwitched = "undo: a bitmap is switched back";
    UndoBitmapKept = "undo: a removed bitmap stays";
    SourceReport = "on-source-error=report";
    SourceIgnore = "on-source-error=ignore";
    SourceStop = "on-source-error=stop";
    SourceEnospcStops = "on-source-error=enospc stops", rare;
    SourceEnospcReports = "on-source-error=enospc reports";
    TargetReport = "on-target-error=report";
    TargetIgnore = "on-target-error=ignore";
    TargetStop = "on-target-error=stop";
    TargetEnospcStops = "on-target-error=enospc stops";
    TargetEnospcReports = "on-target-error=enospc reports";
    BitmapThawed = "bitmap: given back as the job cannot be made";
    AbdicateOnSuccess = "bitmap: its successor follows, after success";
    AbdicateOnFailure = "bitmap: its successor follows, after failure";
    ReclaimOnSuccess = "bitmap: takes its successor in, after success";
    ReclaimOnFailure = "bitmap: takes its successor in, after failure";
    CbwCopies = "copy-before-write: copies";
    CbwFails = "copy-before-write: fails";
    CbwWaits = "copy-before-write: waits for a range that is being copied";
    JobWaitsForCbw = "copying: waits for a range that copy-before-write copies", rare;
    CopyZeroes = "copying: writes zeroes";
    CopyRange = "copying: by copy_range";
    CopyRangeFallsBack = "copying: copy_range fails, a buffer is used", rare;
    CopyPaused = "copying: cut short by a pause";
    CopyAgain = "copying: begins again after a pause";
    // Only while a job with sync=top still looks for what is allocated.
    CopySkips = "copying: skips what is not allocated", rare;
    DrainPausesJob = "drain: pauses a running job";
    // No drained section lasts until the next command, unless something went wrong: `txn-early-fail-leaves-drain`.
    DrainedRequestWaits = "drain: a guest's request waits for its end", rare;
    CancelBeforeStart = "cancel: before the start";
    CancelRunning = "cancel: while running";
    CancelUserPaused = "cancel: paused by its user";
    CancelStoppedByError = "cancel: stopped by an error";
    CancelWaiting = "cancel: while waiting for its group", rare;
    CancelPending = "cancel: while pending";
    CancelConcluded = "cancel: concluded, so dismissed", rare;
    PeerCancelledRunning = "group: a member is cancelled while running";
    PeerCancelledWaiting = "group: a member is cancelled while waiting";
    PeerCancelledBeforeStart = "group: a member is cancelled before its start";
    GroupWaits = "group: waits for its last member";
    GroupToFinalize = "group: waits to be finalised";
    EarlyFail = "job: fails while it is made";
    MirrorMissesWrite = "QEMU's: a write during a mirror's scan is recorded by nobody", rare;
    DiscardSwallowed = "QEMU's: a discard ends at a job's filter", rare;
    FailedHalfDone = "QEMU's: a failed job leaves half a change", rare;
    CancelAll = "quit: all jobs are cancelled", rare;
}

/// How jobs end, and transactions.
const ENDS: [&str; 5] = [
    "job ends completed",
    "job ends completed with an error",
    "job ends cancelled",
    "transaction done",
    "transaction undone",
];

const VERB_AT: usize = STATUSES * STATUSES;

const TXN_AT: usize = VERB_AT + VERBS.len() * STATUSES * 2;

const END_AT: usize = TXN_AT + ACTIONS.len() * PHASES.len();

const PLACE_AT: usize = END_AT + ENDS.len();

const BITS: usize = PLACE_AT + PLACES.len();

const WORDS: usize = BITS.div_ceil(64);

/// What was reached, a bit a mark.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    words: [u64; WORDS],
}

/// What a run has reached is no part of its state.
impl PartialEq for Marks {
    fn eq(&self, _: &Marks) -> bool {
        true
    }
}

impl Eq for Marks {}

impl Hash for Marks {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Marks {
    fn set(&mut self, bit: usize) {
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether a mark was reached, by its place in [`catalogue`].
    #[must_use]
    pub fn has(&self, bit: usize) -> bool {
        self.words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Takes in what another run has reached.
    pub fn join(&mut self, other: &Marks) {
        for (word, other) in self.words.iter_mut().zip(other.words) {
            *word |= other;
        }
    }

    /// How many were reached.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The bits, for storing.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Bits that were stored.
    #[must_use]
    pub fn of_words(words: &[u64]) -> Marks {
        let mut marks = Marks::default();
        for (word, stored) in marks.words.iter_mut().zip(words) {
            *word = *stored;
        }
        marks
    }

    /// Notes what was reached by what happened. Whoever takes things out of the feed calls it.
    pub fn note(&mut self, seen: &Seen) {
        match seen {
            Seen::JobStatus { from, to, .. } => self.set(*from as usize * STATUSES + *to as usize),
            Seen::Verb { verb, status, taken, .. } => {
                self.set(VERB_AT + (*verb as usize * STATUSES + *status as usize) * 2 + usize::from(*taken));
            }
            Seen::JobEnd { cancelled: true, .. } => self.set(END_AT + 2),
            Seen::JobEnd { failed, .. } => self.set(END_AT + usize::from(*failed)),
            Seen::TranEnd(_) => self.set(END_AT + 3),
            Seen::TranFailed(..) => self.set(END_AT + 4),
            _ => {}
        }
    }

    pub(super) fn note_place(&mut self, place: CodePlace) {
        self.set(PLACE_AT + place as usize);
    }

    pub(in crate::world) fn note_txn(&mut self, phase: TxnPhase, action: &str) {
        if let Some(at) = ACTIONS.iter().position(|known| *known == action) {
            self.set(TXN_AT + at * PHASES.len() + phase as usize);
        }
    }
}

/// Kinds of marks.
pub const KINDS: [&str; 5] = ["transition", "verb", "transaction", "end", "place"];

/// A mark that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What it says.
    pub name: String,
    /// Its kind, one of [`KINDS`].
    pub kind: &'static str,
    /// It takes a rare moment, or what the model lacks; a campaign need not reach it.
    pub rare: bool,
    /// Its place in the set of marks that were reached, from 0.
    pub bit: usize,
}

/// All marks that the model can reach.
#[must_use]
pub fn catalogue() -> Vec<Mark> {
    use JobStatus::{Aborting, Created, Null, Paused, Pending, Ready, Running, Standby, Undefined, Waiting};
    let mirror = |status: JobStatus| matches!(status, Ready | Standby);
    let mut marks = Vec::new();
    for (from, to) in pairs() {
        if crate::job::status::can_transition(from, to) && from != to && !mirror(from) && !mirror(to) {
            let rare = matches!((from, to), (Pending, Aborting));
            let name = format!("{} to {}", from.name(), to.name());
            marks.push(Mark { name, kind: "transition", rare, bit: from as usize * STATUSES + to as usize });
        }
    }
    for verb in VERBS {
        for status in JobStatus::ALL.into_iter().filter(|status| !mirror(*status)) {
            if matches!(status, Undefined | Null) || matches!(verb, JobVerb::Change) {
                continue;
            }
            let taken = crate::job::status::apply_verb("", verb, status).is_ok();
            // These last a moment only, unless the job is in a group or was told to wait for the client.
            let rare = matches!(status, Created | Waiting | Pending | Aborting) || (status == Paused && !taken);
            let rare = rare || (status == Running && matches!(verb, JobVerb::Finalize | JobVerb::Dismiss));
            let what = if taken { "taken" } else { "refused" };
            let name = format!("{} {what} when {}", verb.name(), status.name());
            let bit = VERB_AT + (verb as usize * STATUSES + status as usize) * 2 + usize::from(taken);
            marks.push(Mark { name, kind: "verb", rare, bit });
        }
    }
    for (at, action) in ACTIONS.iter().enumerate() {
        for phase in PHASES {
            let possible = *action != "abort" || !matches!(phase, TxnPhase::Commit);
            if possible {
                let name = format!("{action}: {}", phase.name());
                marks.push(Mark {
                    name,
                    kind: "transaction",
                    rare: false,
                    bit: TXN_AT + at * PHASES.len() + phase as usize,
                });
            }
        }
    }
    for (at, end) in ENDS.iter().enumerate() {
        marks.push(Mark { name: (*end).to_owned(), kind: "end", rare: false, bit: END_AT + at });
    }
    for (at, (place, rare)) in PLACES.iter().enumerate() {
        marks.push(Mark { name: (*place).to_owned(), kind: "place", rare: *rare, bit: PLACE_AT + at });
    }
    marks
}

fn pairs() -> impl Iterator<Item = (JobStatus, JobStatus)> {
    JobStatus::ALL.into_iter().flat_map(|from| JobStatus::ALL.into_iter().map(move |to| (from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::types::TransactionAction;
    use std::collections::BTreeSet;

    /// What is not simulated stands in its list.
    #[test]
    fn actions_are_those_of_transactions() {
        let lacking = "blockdev-snapshot-internal-sync";
        let simulated: Vec<&str> = TransactionAction::NAMES.iter().copied().filter(|name| *name != lacking).collect();
        assert_eq!(ACTIONS.as_slice(), simulated);
        assert!(
            include_str!("../../../docs/not-simulated.md").contains(&format!("`{lacking}`. The transaction fails"))
        );
    }

    #[test]
    fn each_mark_has_a_bit_of_its_own() {
        let all = catalogue();
        let bits: BTreeSet<usize> = all.iter().map(|mark| mark.bit).collect();
        assert_eq!(bits.len(), all.len());
        assert!(bits.iter().all(|bit| *bit < BITS));
        assert!(all.iter().any(|mark| mark.name == "pause refused when concluded"));
        assert!(all.iter().any(|mark| mark.name == "running to waiting"));
        let mut marks = Marks::default();
        marks.note_txn(TxnPhase::Abort, "drive-backup");
        let bit = all.iter().find(|mark| mark.name == "drive-backup: abort").map(|mark| mark.bit);
        assert!(bit.is_some_and(|bit| marks.has(bit)) && marks.count() == 1);
        assert_eq!(Marks::of_words(marks.words()).words(), marks.words());
        marks.note_place(CodePlace::CancelAll);
        assert!(marks.has(BITS - 1));
        // A bit is found by the number of a value in its enum.
        assert!(VERBS.iter().enumerate().all(|(i, verb)| *verb as usize == i));
        assert!(PHASES.iter().enumerate().all(|(i, phase)| *phase as usize == i));
        assert!(JobStatus::ALL.iter().enumerate().all(|(i, status)| *status as usize == i));
        assert!(all.iter().all(|mark| KINDS.contains(&mark.kind)));
    }
}
