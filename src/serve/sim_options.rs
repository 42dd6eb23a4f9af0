//! Options that QEMU does not have: how the world is run.

use super::pace::Pace;
use crate::host::DiskRates;
use crate::quirk::Quirks;
use crate::trace::Level;
use std::path::PathBuf;

/// `--sim-…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// `--sim-pace`
    pub pace: Pace,
    /// `--sim-seed`
    pub seed: Option<u64>,
    /// `--sim-record`
    pub record: Option<PathBuf>,
    /// `--sim-trace`
    pub trace: Option<PathBuf>,
    /// `--sim-level`: detail of the trace.
    pub level: Level,
    /// `--sim-quirk`, as often as given.
    pub quirks: Quirks,
    /// `--sim-check`
    pub check: bool,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            pace: Pace::Real,
            seed: None,
            record: None,
            trace: None,
            level: Level::Client,
            quirks: Quirks::default(),
            check: false,
        }
    }
}

impl SimOptions {
    /// Takes one option in, named without `--sim-`. Whether there is such an option.
    ///
    /// # Errors
    /// It lacks an argument, or has a wrong one.
    pub fn take(&mut self, name: &str, value: &mut dyn FnMut() -> Result<String, String>) -> Result<bool, String> {
        match name {
            "pace" => self.pace = pace(&value()?)?,
            "seed" => {
                let text = value()?;
                let seed = text.parse().map_err(|_| format!("`{text}` is no seed: expected a number below 2^64"))?;
                self.seed = Some(seed);
            }
            "record" => self.record = Some(value()?.into()),
            "trace" => self.trace = Some(value()?.into()),
            "level" => self.level = value()?.parse()?,
            "quirk" => self.quirks = self.quirks.switched(value()?.parse()?),
            "check" => self.check = true,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Reads `real`, `asap` or `disk`, the last with what the disk does.
///
/// # Errors
/// It is none of them.
pub fn pace(text: &str) -> Result<Pace, String> {
    match text {
        "real" => Ok(Pace::Real),
        "asap" => Ok(Pace::Asap),
        "disk" => Ok(Pace::Disk(DiskRates::PRESETS[0].1)),
        _ => match text.strip_prefix("disk:") {
            Some(rates) => DiskRates::parse(rates).map(Pace::Disk),
            None => Err(format!("`{text}` is no pace: expected real, asap, disk or disk:RATES")),
        },
    }
}
