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
    TransactionUndone = "transaction-undone", "A transaction that fails leaves bitmaps, jobs and drained sections as they were.";
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
}

const PREFIX: &str = "broken invariant ";

impl Broken {
    /// Notes it.
    pub fn new(invariant: Invariant, subject: impl Into<String>, reason: impl Into<String>) -> Broken {
        Broken { invariant, subject: subject.into(), reason: reason.into() }
    }

    /// Takes one out of the message of a panic: where QEMU would abort, the process ends with [`Broken`] as its message.
    #[must_use]
    pub fn from_panic(message: &str) -> Option<Broken> {
        let (name, rest) = message.strip_prefix(PREFIX)?.split_once(": ")?;
        let (subject, reason) = rest.split_once(": ")?;
        Some(Broken::new(Invariant::find(name)?, subject, reason))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}: {}: {}", self.invariant.name(), self.subject, self.reason)
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
    fn a_panic_keeps_what_was_broken() {
        let broken = Broken::new(Invariant::UsedAfterFree, "job1", "it was freed: and used");
        assert_eq!(Broken::from_panic(&broken.to_string()), Some(broken));
        assert_eq!(Broken::from_panic("index out of bounds"), None);
    }
}
