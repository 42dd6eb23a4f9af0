//! Quirks: wrong behaviour that QEMU really had, as switches; and a few bugs made for tests.
//!
//! Each is asked for in one place, where the model does the right thing without it. The museum (`docs/museum.md`,
//! `sim-scenarios/museum`) has a scenario for each.

use crate::invariant::Invariant;
use std::fmt;
use std::str::FromStr;

/// Where a quirk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// QEMU had it.
    Qemu,
    /// Made to break an invariant that no bug on record breaks.
    Seeded,
}

/// What is known of a quirk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The quirk.
    pub quirk: Quirk,
    /// Its name on the command line and in scenarios.
    pub name: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// The releases of QEMU that had it.
    pub versions: &'static str,
    /// The commit that mended it, or the report.
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
        /// A wrong behaviour that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Quirk {
            $(#[doc = $says] $variant,)*
        }

        /// All quirks.
        pub const TABLE: &[About] = &[$(About {
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
    TxnAbortFifo = "txn-abort-fifo", Qemu, "2.5 – 3.1", "f4de0f8c40 (4.0)", breaks TransactionUndone,
        "A transaction that fails undoes its actions oldest first.",
        "a bitmap that two of the actions changed comes back with what the first one left, and the next incremental backup lacks clusters";
}

impl Quirk {
    /// What is known of it.
    #[must_use]
    pub fn about(self) -> &'static About {
        &TABLE[self as usize]
    }

    /// Its name.
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
            format!("`{name}` is no quirk: expected one of {}", names.join(", "))
        })
    }
}

/// A set of quirks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quirks(u64);

impl Quirks {
    /// No quirk: what QEMU 10.0.2 is meant to do.
    pub const NONE: Quirks = Quirks(0);

    /// Whether a quirk is in force.
    #[inline]
    #[must_use]
    pub fn has(self, quirk: Quirk) -> bool {
        self.0 & (1 << quirk as u64) != 0
    }

    /// The set with one more.
    #[must_use]
    pub fn with(self, quirk: Quirk) -> Quirks {
        Quirks(self.0 | (1 << quirk as u64))
    }

    /// The set without one.
    #[must_use]
    pub fn without(self, quirk: Quirk) -> Quirks {
        Quirks(self.0 & !(1 << quirk as u64))
    }

    /// What is in either set.
    #[must_use]
    pub fn union(self, other: Quirks) -> Quirks {
        Quirks(self.0 | other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The quirks in it, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Quirk> {
        TABLE.iter().map(|about| about.quirk).filter(move |quirk| self.has(*quirk))
    }
}

impl FromIterator<Quirk> for Quirks {
    fn from_iter<T: IntoIterator<Item = Quirk>>(quirks: T) -> Quirks {
        quirks.into_iter().fold(Quirks::NONE, Quirks::with)
    }
}

impl fmt::Display for Quirks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Quirk::name).collect();
        f.write_str(&names.join(", "))
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
        assert!("no-such-quirk".parse::<Quirk>().unwrap_err().contains("expected one of"));
    }

    #[test]
    fn sets() {
        let one = Quirks::NONE.with(Quirk::TxnAbortFifo);
        assert!(one.has(Quirk::TxnAbortFifo) && !Quirks::NONE.has(Quirk::TxnAbortFifo));
        assert_eq!(one.iter().collect::<Quirks>(), one);
        assert_eq!(one.without(Quirk::TxnAbortFifo), Quirks::NONE);
        assert_eq!(one.to_string(), "txn-abort-fifo");
    }
}
