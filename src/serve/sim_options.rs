//! Options that QEMU does not have: how the world is run.

use super::pace::ServePace;
use crate::host::DiskRates;
use crate::quirk::Quirks;
use crate::trace::Level;
use std::path::PathBuf;

/// Options, each declared once: its field with what it is without the option, its name behind `--sim-`, its lines in `-help`, and what it does.
macro_rules! sim_options {
    ($(
        $(#[$doc:meta])*
        $field:ident: $type:ty = $default:expr, $name:literal, $help:literal, |$options:ident, $value:ident| $take:expr;
    )+) => {
        /// `--sim-…`
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct SimOptions {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl Default for SimOptions {
            fn default() -> SimOptions {
                SimOptions { $($field: $default,)+ }
            }
        }

        impl SimOptions {
            /// The names, without `--sim-`.
            pub const NAMES: &[&str] = &[$($name,)+];
            /// What `-help` says of them.
            pub const HELP: &str = concat!($($help,)+);

            /// Takes one option in, named without `--sim-`. Whether there is such an option.
            ///
            /// # Errors
            /// It lacks an argument, or has a wrong one.
            pub fn take(&mut self, name: &str, value: &mut dyn FnMut() -> Result<String, String>) -> Result<bool, String> {
                match name {
                    $($name => {
                        let ($options, $value) = (self, value);
                        $take;
                    })+
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

sim_options! {
    /// What takes time by the wall clock.
    pace: ServePace = ServePace::Real, "pace", "\
--sim-pace PACE         real: sleeps follow the wall clock (default); asap: they take no
                        time; disk: requests take time as well, as on a disk of 2020;
                        disk:hdd, disk:ssd, disk:nvme, disk:bytes=SIZE,requests=N
                        say which disk (what it does in a second)
", |options, value| options.pace = pace(&value()?)?;
    /// From which orders and durations are drawn; calm without one.
    seed: Option<u64> = None, "seed", "--sim-seed N            orders and durations drawn from a seed\n", |options, value| {
        let text = value()?;
        let seed = text.parse().map_err(|_| format!("`{text}` is no seed: expected a number below 2^64"))?;
        options.seed = Some(seed);
    };
    /// The file that gets the run as a scenario.
    record: Option<PathBuf> = None, "record", "--sim-record FILE       write the run as a scenario\n",
        |options, value| options.record = Some(value()?.into());
    /// The file that gets the trace.
    trace: Option<PathBuf> = None, "trace", "--sim-trace FILE        write the trace as JSON lines\n",
        |options, value| options.trace = Some(value()?.into());
    /// Detail of the trace.
    level: Level = Level::Client, "level", "--sim-level LEVEL       detail of the trace: client, job, io or co\n",
        |options, value| options.level = value()?.parse()?;
    /// Those that are switched on; the option may be given more than once.
    quirks: Quirks = Quirks::default(), "quirk", "--sim-quirk NAME        switch on this bug of an older QEMU\n",
        |options, value| options.quirks = options.quirks.switched(value()?.parse()?);
    /// The version of QEMU, kept with the quirks. For this one the `sim-` may be left out, as all other tools have it so.
    versions: () = (), "qemu-version", "--qemu-version V        stand for this version of QEMU: 7.2, 8.2, 9.1, 10.0, 11.1\n",
        |options, value| options.quirks = options.quirks.of(Some(value()?.parse()?));
    /// Invariants are watched.
    check: bool = false, "check", "--sim-check             end when an invariant is broken\n", |options, _value| options.check = true;
}

/// Reads `real`, `asap` or `disk`, the last with what the disk does.
///
/// # Errors
/// It is none of them.
pub fn pace(text: &str) -> Result<ServePace, String> {
    match text {
        "real" => Ok(ServePace::Real),
        "asap" => Ok(ServePace::Asap),
        "disk" => Ok(ServePace::Disk(DiskRates::PRESETS[0].1)),
        _ => match text.strip_prefix("disk:") {
            Some(rates) => DiskRates::parse(rates).map(ServePace::Disk),
            None => Err(format!("`{text}` is no pace: expected real, asap, disk or disk:RATES")),
        },
    }
}
