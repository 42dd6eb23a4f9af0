//! How fast the disk of the host is, on which all files are.

use super::HostFiles;
use crate::base::time::Span;
use crate::base::units::{MIB, parse_size, size_text};

/// No request takes longer, so that times can be added and multiplied: 13 days.
const LONGEST: Span = Span::from_nanos(1 << 50);

/// What a disk does in a second, with one request after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskRates {
    /// Bytes read or written; at least 1.
    pub bytes: u64,
    /// Requests; at least 1.
    pub requests: u64,
}

impl DiskRates {
    /// Disks as they were sold in 2020, by name; the first is the one that is meant where none is named.
    pub const PRESETS: &[(&str, DiskRates)] = &[
        ("ssd", DiskRates { bytes: 500 * MIB, requests: 90_000 }),
        ("nvme", DiskRates { bytes: 3000 * MIB, requests: 400_000 }),
        ("hdd", DiskRates { bytes: 150 * MIB, requests: 150 }),
    ];

    /// How long the disk works for a request of so many bytes.
    #[must_use]
    pub fn time(self, bytes: u64) -> Span {
        let moved = u128::from(bytes) * u128::from(Span::SECOND.as_nanos()) / u128::from(self.bytes.max(1));
        let moved = u64::try_from(moved).map_or(LONGEST, Span::from_nanos);
        moved.clamp(Span::SECOND / self.requests.max(1), LONGEST)
    }

    /// Reads `NAME`, or `bytes=SIZE`, `requests=N`, or several of these with commas between.
    ///
    /// # Errors
    /// Which part is wrong, and what was expected.
    pub fn parse(text: &str) -> Result<DiskRates, String> {
        let mut rates = DiskRates::PRESETS[0].1;
        for part in text.split(',') {
            let positive = |value: &str| match parse_size(value) {
                Ok(0) => Err(format!("`{part}`: expected more than 0 a second")),
                other => other,
            };
            match part.split_once('=') {
                Some(("bytes", value)) => rates.bytes = positive(value)?,
                Some(("requests", value)) => rates.requests = positive(value)?,
                None if let Some((_, preset)) = DiskRates::PRESETS.iter().find(|(name, _)| *name == part) => {
                    rates = *preset;
                }
                _ => {
                    let names: Vec<&str> = DiskRates::PRESETS.iter().map(|(name, _)| *name).collect();
                    let names = names.join(", ");
                    return Err(format!("`{part}` is no disk: expected {names}, bytes=SIZE or requests=N (a second)"));
                }
            }
        }
        Ok(rates)
    }
}

impl std::fmt::Display for DiskRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes={},requests={}", size_text(self.bytes), self.requests)
    }
}

impl HostFiles {
    /// How fast the disk is; `None`: each request takes a little time, however many there are.
    #[must_use]
    pub fn disk(&self) -> Option<DiskRates> {
        self.disk
    }

    /// Sets how fast the disk is.
    pub fn set_disk(&mut self, rates: Option<DiskRates>) {
        self.disk = rates;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_read() {
        let rates = |bytes, requests| Ok(DiskRates { bytes, requests });
        assert_eq!(DiskRates::parse("hdd"), rates(150 << 20, 150));
        assert_eq!(DiskRates::parse("bytes=1M"), rates(1 << 20, 90_000));
        assert_eq!(DiskRates::parse("hdd,requests=10"), rates(150 << 20, 10));
        for wrong in ["", "ssd,", "tape", "bytes=0", "bytes=x", "requests=", "bytes"] {
            assert!(DiskRates::parse(wrong).is_err(), "{wrong}");
        }
        for (_, preset) in DiskRates::PRESETS {
            assert_eq!(DiskRates::parse(&preset.to_string()), Ok(*preset));
        }
    }

    #[test]
    fn the_slower_of_both_counts() {
        let rates = DiskRates { bytes: 1000, requests: 10 };
        assert_eq!(rates.time(0), Span::SECOND / 10);
        assert_eq!(rates.time(500), Span::SECOND / 2);
        assert_eq!(DiskRates { bytes: 1, requests: 1 }.time(u64::MAX), LONGEST);
    }
}
