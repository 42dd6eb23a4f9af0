//! `blockjob-sim quirks`, and the options by which commands take quirks and invariants.

use crate::cli::output::Output;
use crate::invariant::Invariant;
use crate::quirk::{Origin, Quirk, Quirks, Switch, TABLE};
use clap::Args;

/// What a run has beside its scenario: quirks, and whether invariants are watched.
#[derive(Clone, Debug, Default, Args)]
pub struct WatchArgs {
    /// Switch a quirk on, a bug of some QEMU (`blockjob-sim quirks`), or with `no-NAME` one off that is on by default; may be given more than once
    #[arg(long = "quirk", value_name = "NAME", value_parser = str::parse::<Switch>)]
    quirk: Vec<Switch>,
    /// Check all invariants; the run ends when one is broken
    #[arg(long)]
    pub check: bool,
}

impl WatchArgs {
    /// The quirks asked for.
    #[must_use]
    pub fn quirks(&self) -> Quirks {
        self.quirk.iter().copied().collect()
    }

    /// Reads what [`WatchArgs::written`] wrote.
    ///
    /// # Errors
    /// The word that is no such option.
    pub fn parse(text: &str) -> Result<WatchArgs, String> {
        let (mut watch, mut words) = (WatchArgs::default(), text.split_whitespace());
        while let Some(word) = words.next() {
            match word {
                "--quirk" => watch.quirk.push(words.next().unwrap_or_default().parse()?),
                "--check" => watch.check = true,
                _ => return Err(format!("`{word}` is no option of a campaign: expected --quirk NAME or --check")),
            }
        }
        Ok(watch)
    }

    /// The options as they are written on a command line, each with a space before it.
    #[must_use]
    pub fn written(&self) -> String {
        let quirks: String = self.quirks().names().map(|quirk| format!(" --quirk {quirk}")).collect();
        format!("{quirks}{}", if self.check { " --check" } else { "" })
    }
}

/// The same for a command that watches all invariants anyway.
#[derive(Clone, Debug, Default, Args)]
pub struct AlwaysWatchArgs {
    /// Switch a quirk on, a bug of some QEMU (`blockjob-sim quirks`), or with `no-NAME` one off that is on by default; may be given more than once
    #[arg(long = "quirk", value_name = "NAME", value_parser = str::parse::<Switch>)]
    quirk: Vec<Switch>,
    /// Without effect, so that options of `run` can be taken over: all invariants are checked
    #[arg(long, hide = true)]
    check: bool,
}

impl AlwaysWatchArgs {
    /// The quirks asked for, and all invariants.
    #[must_use]
    pub fn watch(&self) -> WatchArgs {
        WatchArgs { quirk: self.quirk.clone(), check: true }
    }
}

/// Arguments of `quirks`.
#[derive(Debug, Args)]
pub struct QuirksArgs {
    /// Only these
    #[arg(value_parser = str::parse::<Quirk>)]
    names: Vec<Quirk>,
    /// List the invariants instead
    #[arg(long, conflicts_with = "names")]
    invariants: bool,
}

/// Lists quirks, or invariants.
pub(in crate::cli) fn quirks(args: &QuirksArgs, out: &mut Output) -> u8 {
    if args.invariants {
        for invariant in Invariant::ALL {
            out.print(&format!("{}\n{}", invariant.name(), indented("", invariant.says())));
        }
        return 0;
    }
    for about in TABLE.iter().filter(|about| args.names.is_empty() || args.names.contains(&about.quirk)) {
        let origin = match about.origin {
            Origin::Qemu => format!("QEMU {}; {}", about.versions, about.source),
            Origin::Live => format!("on by default; QEMU {}; {}", about.versions, about.source),
            Origin::Seeded => "made for tests".to_owned(),
        };
        out.print(&format!(
            "{}  ({origin})\n{}{}{}",
            about.name,
            indented("", about.says),
            indented("looks like: ", about.looks_like),
            indented("breaks: ", about.breaks.name()),
        ));
    }
    0
}

/// A paragraph, four columns in, in lines of about a hundred.
fn indented(label: &str, text: &str) -> String {
    let mut lines = vec![String::from("   ")];
    for word in format!("{label}{text}").split(' ') {
        if lines.last().is_some_and(|line| line.len() + word.len() > 100) {
            lines.push(String::from("   "));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}
