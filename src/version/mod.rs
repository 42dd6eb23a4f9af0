//! Versions of QEMU: which are simulated, and what changed between them.
//!
//! A version is a value. What it does otherwise than another one are [`changes`], a table: the model looks at each in the place where it
//! matters, as it does for quirks.

pub mod changes;

use std::fmt;
use std::str::FromStr;

/// A release of QEMU that the model stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 7.2, as in Debian 12.
    V7_2,
    /// 8.2, as in Ubuntu 24.04.
    V8_2,
    /// 9.1, as in RHEL 9.
    V9_1,
    /// 10.0, as in Debian 13.
    #[default]
    V10_0,
    /// 11.1, the newest.
    V11_1,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 5] = [Version::V7_2, Version::V8_2, Version::V9_1, Version::V10_0, Version::V11_1];

    /// Major, minor, and the micro release that was measured, or is meant where none was.
    #[must_use]
    pub const fn numbers(self) -> (u8, u8, u8) {
        match self {
            Version::V7_2 => (7, 2, 22),
            Version::V8_2 => (8, 2, 10),
            Version::V9_1 => (9, 1, 3),
            Version::V10_0 => (10, 0, 2),
            Version::V11_1 => (11, 1, 3),
        }
    }

    /// Major and minor.
    #[must_use]
    pub const fn minor(self) -> (u8, u8) {
        let (major, minor, _) = self.numbers();
        (major, minor)
    }

    /// Its name: `7.2`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Version::V7_2 => "7.2",
            Version::V8_2 => "8.2",
            Version::V9_1 => "9.1",
            Version::V10_0 => "10.0",
            Version::V11_1 => "11.1",
        }
    }

    /// With its micro release: `7.2.22`.
    #[must_use]
    pub fn full(self) -> String {
        let (major, minor, micro) = self.numbers();
        format!("{major}.{minor}.{micro}")
    }

    /// Whether a real one was held against the model. What the others do is derived from QEMU's documents and source.
    #[must_use]
    pub const fn is_measured(self) -> bool {
        matches!(self, Version::V7_2 | Version::V10_0 | Version::V11_1)
    }

    /// The version of which a program's name tells: `qemu-system-x86_64-7.2`. `None` where none stands behind the target.
    ///
    /// # Errors
    /// What stands there is a number, and none of a version that is simulated.
    pub fn of_program(name: &str) -> Result<Option<Version>, String> {
        let last = name.rsplit('-').next().unwrap_or_default();
        match last.starts_with(|c: char| c.is_ascii_digit()) {
            true => last.parse().map(Some),
            false => Ok(None),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads `7.2`, or a micro release of it, `7.2.22`.
    fn from_str(text: &str) -> Result<Version, String> {
        let of = |version: &&Version| {
            let micro = text.strip_prefix(version.name()).and_then(|rest| rest.strip_prefix('.'));
            text == version.name() || micro.is_some_and(|micro| micro.parse::<u8>().is_ok())
        };
        Version::ALL.iter().find(of).copied().ok_or_else(|| {
            let names = Version::ALL.map(Version::name).join(", ");
            format!("`{text}` is no version of QEMU that is simulated: expected one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_by_their_names() {
        for version in Version::ALL {
            assert_eq!(version.name().parse(), Ok(version));
            assert_eq!(version.full().parse(), Ok(version));
        }
        for wrong in ["", "7", "7.20", "10", "10.0.", "10.0.2.1", "9.0", "11.1-rc1"] {
            assert!(
                wrong.parse::<Version>().unwrap_err().ends_with("expected one of 7.2, 8.2, 9.1, 10.0, 11.1"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_link_says_its_version() {
        assert_eq!(Version::of_program("qemu-system-x86_64"), Ok(None));
        assert_eq!(Version::of_program("qemu-system-x86_64-7.2"), Ok(Some(Version::V7_2)));
        assert!(Version::of_program("qemu-system-x86_64-6.0").is_err());
    }
}
