//! `blockjob-sim versions`.

use super::EXIT_USAGE;
use super::output::Output;
use crate::quirk;
use crate::serve::commands;
use crate::version::Version;
use crate::version::changes::{Area, ChangeFacts, Evidence, TABLE};
use clap::Args;

/// Arguments of `versions`.
#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// The version that a client runs on
    #[arg(value_name = "FROM", requires = "to")]
    from: Option<Version>,
    /// The version that it is to run on; it may be an older one
    #[arg(value_name = "TO")]
    to: Option<Version>,
    /// Print the tables of docs/versions.md: what changed, and which quirks are alive
    #[arg(long, conflicts_with = "from")]
    markdown: bool,
}

/// Says which versions there are, or what changes from one to another.
pub(super) fn versions(args: &VersionsArgs, out: &mut Output) -> u8 {
    match (args.from, args.to) {
        (Some(from), Some(to)) => between(from, to, out),
        _ if args.markdown => out.print(&format!("{}\n{}", markdown(), quirks_markdown())),
        _ => list(out),
    }
    if out.failed { EXIT_USAGE } else { 0 }
}

fn list(out: &mut Output) {
    for version in Version::ALL {
        let usual = if version == Version::default() { ", the default" } else { "" };
        let how = if version.is_measured() {
            format!("held against QEMU {}", version.full())
        } else {
            "not measured: read in QEMU's schema and documents".to_owned()
        };
        out.print(&format!("{:<5} {how}{usual}\n", version.name()));
    }
    out.print("\n`blockjob-sim versions FROM TO` says what changes for a client.\n");
}

fn between(from: Version, to: Version, out: &mut Output) {
    let (older, newer, back) = if from <= to { (from, to, false) } else { (to, from, true) };
    let changes: Vec<&ChangeFacts> = older.changes(newer).collect();
    if changes.is_empty() {
        out.print(&format!("{from} and {to}: nothing that the model knows of\n"));
        return;
    }
    if back {
        out.print(&format!("From {from} back to {to} these are undone:\n\n"));
    }
    for area in Area::ALL {
        let of: Vec<&&ChangeFacts> = changes.iter().filter(|about| about.area == area).collect();
        if of.is_empty() {
            continue;
        }
        out.print(&format!("{}\n", area.title()));
        for about in of {
            let (major, minor) = about.since;
            // What came after 10.0 was seen on both sides, whatever older version it is asked of.
            let derived = about.since <= Version::V10_0.minor() && ![older, newer].iter().all(|v| v.is_measured());
            let unseen = if derived || about.evidence == Evidence::Read { ", not measured" } else { "" };
            out.print(&format!("  {} (QEMU {major}.{minor}{unseen})\n      {}\n", about.name, about.says));
        }
    }
    commands_between(older, newer, out);
    bugs_between(older, newer, out);
    let unmeasured: Vec<&str> = [older, newer].into_iter().filter(|v| !v.is_measured()).map(Version::name).collect();
    if !unmeasured.is_empty() {
        out.print(&format!("\nNo real {} was held against the model.\n", unmeasured.join(" or ")));
    }
}

/// The commands that came and went, simulated or not.
fn commands_between(older: Version, newer: Version, out: &mut Output) {
    let (before, after) = (commands(older), commands(newer));
    let came: Vec<&str> = after.iter().copied().filter(|name| !before.contains(name)).collect();
    let went: Vec<&str> = before.iter().copied().filter(|name| !after.contains(name)).collect();
    if !came.is_empty() || !went.is_empty() {
        out.print("All commands of QEMU, simulated or not\n");
    }
    for (what, names) in [("came", came), ("went", went)] {
        if !names.is_empty() {
            out.print(&format!("  {what}\n      {}\n", names.join(", ")));
        }
    }
}

/// The bugs that are in force in one of them and not in the other.
fn bugs_between(older: Version, newer: Version, out: &mut Output) {
    let has = |version, quirk| quirk::Quirks::NONE.of(Some(version)).has(quirk);
    let names = |has_it: Version, lacks_it: Version| -> Vec<&str> {
        let only = |about: &&quirk::QuirkInfo| has(has_it, about.quirk) && !has(lacks_it, about.quirk);
        quirk::TABLE.iter().filter(only).map(|about| about.name).collect()
    };
    let (mended, new) = (names(older, newer), names(newer, older));
    if !mended.is_empty() || !new.is_empty() {
        out.print("Bugs (`blockjob-sim quirks NAME`)\n");
    }
    for (what, names) in [("mended", mended), ("new", new)] {
        if !names.is_empty() {
            out.print(&format!("  {what}\n      {}\n", names.join(", ")));
        }
    }
}

/// The table, a row a change.
#[must_use]
pub fn markdown() -> String {
    let heads: String = Version::ALL.iter().map(|version| format!(" {version} |")).collect();
    let rule = "---|".repeat(Version::ALL.len());
    let mut text = format!("| change | since |{heads} known by | what is so from then on |\n|---|---|{rule}---|---|\n");
    for about in TABLE {
        let (major, minor) = about.since;
        let marks: String =
            Version::ALL.iter().map(|version| if version.has(about.change) { " ✓ |" } else { "  |" }).collect();
        let source = if about.source.is_empty() { String::new() } else { format!("; {}", about.source) };
        text.push_str(&format!(
            "| `{}` | {major}.{minor} |{marks} {}{source} | {} |\n",
            about.name,
            about.evidence.word(),
            about.says
        ));
    }
    text
}

/// The quirks that are alive in some version, a row each.
#[must_use]
pub fn quirks_markdown() -> String {
    let mut text = "| quirk | from | to | known by | in force by default in |\n|---|---|---|---|---|\n".to_owned();
    for about in quirk::TABLE {
        let Some((first, last, evidence)) = about.quirk.alive() else { continue };
        let of = |version: &Version| quirk::Quirks::NONE.of(Some(*version)).has(about.quirk);
        let in_force: Vec<&str> = Version::ALL.iter().filter(|version| of(version)).map(|v| v.name()).collect();
        let in_force = if in_force.is_empty() { "none".to_owned() } else { in_force.join(", ") };
        text.push_str(&format!("| `{}` | {first} | {last} | {} | {in_force} |\n", about.name, evidence.word()));
    }
    text
}
