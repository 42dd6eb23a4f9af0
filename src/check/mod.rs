//! The checker: watches a run from outside and says when an invariant does not hold.
//!
//! After each step it takes the observations in the world's feed, so its cost depends on what happened and not on the size of
//! the world. What it remembers is plain data, part of the state of a run. The list of watchers below is the register: one file an
//! invariant.

mod chain;
mod data;
mod job;
mod process;

use crate::base::Digest;
use crate::invariant::{Broken, Invariant};
use crate::quirk::KnownCause;
use crate::world::World;
use crate::world::watch::feed::Seen;
use crate::world::watch::kinds::SeenKinds;
use std::hash::{Hash, Hasher};

/// Watches for one invariant.
trait Watch {
    /// Which.
    const INVARIANT: Invariant;

    /// The kinds of things that it has to hear of.
    const HEARS: SeenKinds;

    /// Looks at one thing that happened in the step that just ended.
    fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken>;

    /// Says that it does not hold.
    fn broken(subject: String, reason: String) -> Result<(), Broken> {
        Err(Broken::new(Self::INVARIANT, subject, reason))
    }
}

macro_rules! watchers {
    ($($field:ident: $watcher:path,)*) => {
        /// What the watchers of all invariants remember.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Checker {
            /// Of all that stands below, until something is looked at.
            digest: Digest,
            $($field: $watcher,)*
            chains: chain::Chains,
            discard_arrives: data::discard_arrives::DiscardArrives,
            findings: Vec<Finding>,
        }

        /// The invariants that have a watcher. `used-after-free` and `no-abort` have none: whoever uses an id that was freed, or fails
        /// one of QEMU's assertions, ends the step. `comes-to-rest` is looked at when nothing happens any more.
        pub const WATCHED: &[Invariant] = &[$(<$watcher as Watch>::INVARIANT,)*];

        impl Hash for Checker {
            fn hash<H: Hasher>(&self, state: &mut H) {
                let Checker { digest, $($field,)* chains, discard_arrives, findings } = self;
                state.write_u64(digest.of(|hasher| {
                    $($field.hash(hasher);)*
                    chains.hash(hasher);
                    discard_arrives.hash(hasher);
                    findings.hash(hasher);
                }));
            }
        }

        impl Checker {
            fn see(&mut self, seen: &Seen, world: &World) -> Result<(), Broken> {
                let kind = seen.kind();
                $(
                    if <$watcher as Watch>::HEARS.has(kind) {
                        self.$field.see(seen, world)?;
                    }
                )*
                if chain::Chains::HEARS.has(kind)
                    && let Some(wrong) = self.chains.see(seen, world)
                {
                    if matches!(wrong.known, Some(KnownCause::Page(_))) {
                        // What disks read as has changed by no write.
                        (self.bitmap_covers, self.last_write) = Default::default();
                        self.backup_content = Default::default();
                    }
                    return self.wrong(wrong, world);
                }
                if data::discard_arrives::DiscardArrives::HEARS.has(kind)
                    && let Some(wrong) = self.discard_arrives.see(seen)
                {
                    return self.wrong(wrong, world);
                }
                Ok(())
            }
        }
    };
}

/// The invariants that bugs of QEMU 10.0.2 may break by default: that is a finding, unless the bug was switched on as a quirk.
pub const JUDGED: [Invariant; 7] = {
    let [a, b, c, d, e, f] = chain::JUDGED;
    [a, b, c, d, e, f, data::discard_arrives::INVARIANT]
};

/// A bug that QEMU 10.0.2 has was met in a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finding {
    /// The quirk it is, or the page that describes it.
    pub known: KnownCause,
    /// What it broke first.
    pub broken: Broken,
}

watchers! {
    job_tables: job::job_tables::JobTables,
    job_events: job::job_events::JobEvents,
    group_completion: job::group_completion::GroupCompletion,
    transaction_undone: job::transaction_undone::TransactionUndone,
    backup_content: data::backup_content::BackupContent,
    bitmap_covers: data::bitmap_covers::BitmapCovers,
    bitmap_after_job: data::bitmap_after_job::BitmapAfterJob,
    paused_quiet: job::quiet::PausedQuiet,
    drained: process::drained::Drained,
    last_write: data::last_write::LastWrite,
    flushed: data::flushed::Flushed,
    faults_once: process::faults::FaultsOnce,
    nothing_left: process::nothing_left::NothingLeft,
    ready_once: job::ready_once::ReadyOnce,
}

impl Checker {
    /// A checker that watches `world` from now on.
    #[must_use]
    pub fn watching(world: &mut World) -> Checker {
        world.feed.on = true;
        Checker::default()
    }

    /// Looks at what happened in the step that just ended.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    #[inline]
    pub fn step(&mut self, world: &mut World) -> Result<(), Broken> {
        if world.feed.seen.is_empty() { Ok(()) } else { self.look(world) }
    }

    /// Bugs of QEMU 10.0.2 that were met, each once.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn wrong(&mut self, wrong: chain::Wrong, world: &World) -> Result<(), Broken> {
        match wrong.known {
            Some(KnownCause::Quirk(quirk)) if world.quirks.counts(quirk) => Err(wrong.broken),
            None => Err(wrong.broken),
            Some(known) => {
                self.find(known, wrong.broken);
                Ok(())
            }
        }
    }

    /// Notes it if it is a known defect of QEMU's: the run goes on then.
    fn finds(&mut self, broken: Broken) -> Result<(), Broken> {
        let Some(page) = broken.page else { return Err(broken) };
        self.find(KnownCause::Page(page), broken);
        Ok(())
    }

    fn find(&mut self, known: KnownCause, broken: Broken) {
        if !self.findings.iter().any(|finding| finding.known == known) {
            self.findings.push(Finding { known, broken });
        }
    }

    /// Looks at a process in which nothing happens any more, or whose client is done.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn end(&self, world: &World) -> Result<(), Broken> {
        process::comes_to_rest::look(world)?;
        if world.at_rest() && !world.quitting { process::nothing_left::NothingLeft::at_rest(world) } else { Ok(()) }
    }

    /// Looks at a process whose run meets a limit: jobs may sleep and wake for ever while it answers nobody.
    ///
    /// # Errors
    /// The main thread waits for what only the monitor could bring about.
    pub fn limit(&self, world: &World) -> Result<(), Broken> {
        process::comes_to_rest::unanswered(world)
    }

    fn look(&mut self, world: &mut World) -> Result<(), Broken> {
        self.digest.clear();
        let mut seen = std::mem::take(&mut world.feed.seen);
        seen.iter().for_each(|seen| world.feed.marks.note(seen));
        let checked = seen.iter().try_for_each(|seen| self.see(seen, world).or_else(|broken| self.finds(broken)));
        seen.clear();
        world.feed.seen = seen;
        checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::watch::kinds::SeenKind;
    use std::collections::BTreeSet;

    /// A watcher that does not hear of what it looks at would never find anything wrong there.
    #[test]
    fn watchers_hear_what_they_look_at() {
        macro_rules! watchers {
            ($($file:literal: $watcher:path,)*) => { [$(($file, <$watcher>::HEARS, include_str!($file)),)*] };
        }
        let all = watchers! {
            "job/job_tables.rs": job::job_tables::JobTables,
            "job/job_events.rs": job::job_events::JobEvents,
            "job/group_completion.rs": job::group_completion::GroupCompletion,
            "job/transaction_undone.rs": job::transaction_undone::TransactionUndone,
            "data/backup_content.rs": data::backup_content::BackupContent,
            "data/bitmap_covers.rs": data::bitmap_covers::BitmapCovers,
            "data/bitmap_after_job.rs": data::bitmap_after_job::BitmapAfterJob,
            "job/quiet.rs": job::quiet::PausedQuiet,
            "process/drained.rs": process::drained::Drained,
            "data/last_write.rs": data::last_write::LastWrite,
            "data/flushed.rs": data::flushed::Flushed,
            "process/faults.rs": process::faults::FaultsOnce,
            "process/nothing_left.rs": process::nothing_left::NothingLeft,
            "job/ready_once.rs": job::ready_once::ReadyOnce,
            "chain/mod.rs": chain::Chains,
            "data/discard_arrives.rs": data::discard_arrives::DiscardArrives,
        };
        // The two that are judged apart are in no register.
        assert_eq!(all.len(), WATCHED.len() + 2);
        for (file, hears, text) in all {
            let named = |text: &str| text.chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
            let looks: BTreeSet<String> = text.split("Seen::").skip(1).map(named).collect();
            let heard = SeenKind::ALL.iter().filter(|kind| hears.has(**kind));
            let heard: BTreeSet<String> = heard.map(|kind| format!("{kind:?}")).collect();
            assert_eq!(heard, looks, "{file}");
        }
    }
}
