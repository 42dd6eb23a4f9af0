//! `blockjob-sim gallery`: makes the pictures of `docs/gallery`.
#![expect(clippy::disallowed_methods, reason = "the shell writes files")]

use crate::base::counted;
use crate::cli::output::Output;
use crate::cli::run::timeline::{self, Wanted};
use crate::cli::{EXIT_USAGE, files};
use crate::quirk::{Quirk, Quirks, TABLE};
use crate::render::gallery::{CASES, CHAINS, GalleryEntry, GalleryPart, page};
use crate::render::read::{Rec, RecKind, ShownRun};
use crate::render::svg;
use crate::sim::outcome::Runner;
use crate::trace::Level;
use crate::version::Version;
use clap::Args;
use std::path::{Path, PathBuf};

/// Width of pictures that stand beside each other.
const HALF: u64 = 620;

/// Arguments of `gallery`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:\n  0  all pictures are drawn\n  2  a mistake in the arguments or in a file")]
pub(in crate::cli) struct GalleryArgs {
    /// Directory for the pictures and their page; it is created, and pictures of an older gallery are removed from it
    dir: PathBuf,
    /// Directory of the scenarios
    #[arg(long, value_name = "DIR", default_value = "sim-scenarios")]
    scenarios: PathBuf,
}

/// The command.
pub(in crate::cli) fn gallery(args: &GalleryArgs, runner: Runner, out: &mut Output) -> u8 {
    match make(args, runner, out) {
        Ok(count) => {
            out.complain(&format!("{} in {}\n", counted(count as u64, "file"), args.dir.display()));
            0
        }
        Err(message) => {
            out.error(&message);
            EXIT_USAGE
        }
    }
}

fn make(args: &GalleryArgs, runner: Runner, out: &Output) -> Result<usize, String> {
    let mut made: Vec<(String, String)> = Vec::new();
    let mut parts = vec![cases(args, runner, out, &mut made)?];
    parts.push(chains(args, runner, out, &mut made)?);
    parts.extend(versions(args, runner, out, &mut made)?);
    let museum = museum(args, runner, out, &mut made)?;
    if !museum.entries.is_empty() {
        parts.push(museum);
    }
    made.push(("README.md".to_owned(), page(&parts)));
    let trouble = |path: &Path, error: std::io::Error| format!("{}: {error}\n", path.display());
    std::fs::create_dir_all(&args.dir).map_err(|error| trouble(&args.dir, error))?;
    for entry in std::fs::read_dir(&args.dir).map_err(|error| trouble(&args.dir, error))? {
        let path = entry.map_err(|error| trouble(&args.dir, error))?.path();
        if path.extension().is_some_and(|ending| ending == "svg") {
            std::fs::remove_file(&path).map_err(|error| trouble(&path, error))?;
        }
    }
    for (name, text) in &made {
        let path = args.dir.join(name);
        std::fs::write(&path, text).map_err(|error| trouble(&path, error))?;
    }
    Ok(made.len())
}

/// Runs a scenario.
fn run(file: &Path, quirks: Quirks, check: bool, runner: Runner, out: &Output) -> Result<ShownRun, String> {
    let wanted = Wanted { file, seed: None, replay: None, level: Level::Io, nth: 1, quirks, check };
    timeline::source(&wanted, runner, out)
}

/// What a scenario says of itself.
fn about(file: &Path) -> Result<String, String> {
    let plan = files::plan(file).map_err(|error| format!("{}: {error}\n", file.display()))?;
    Ok(plan.map_or_else(String::new, |plan| plan.about.trim().to_owned()))
}

fn cases(
    args: &GalleryArgs,
    runner: Runner,
    out: &Output,
    made: &mut Vec<(String, String)>,
) -> Result<GalleryPart, String> {
    let mut entries = Vec::new();
    for (name, text) in CASES {
        let file = args.scenarios.join("iotest-124").join(format!("{name}.yaml"));
        let source = run(&file, Quirks::NONE, false, runner, out)?;
        let picture = format!("124-{name}.svg");
        // What comes before its last mark is how the case sets its scene.
        let mut marks = source
            .records
            .iter()
            .enumerate()
            .filter(|(_, record)| matches!(&record.kind, RecKind::Note { what, .. } if what == "mark"));
        let from = marks.next_back().map(|(i, _)| i);
        let heading = Some((*name).to_owned());
        made.push((picture.clone(), svg::draw(&source, &svg::Options { from, heading, width: None })));
        entries.push(GalleryEntry {
            title: (*name).to_owned(),
            text: format!("{} {text}", about(&file)?),
            command: format!("blockjob-sim timeline sim-scenarios/iotest-124/{name}.yaml -o page.html"),
            pictures: vec![((*name).to_owned(), picture)],
        });
    }
    Ok(GalleryPart {
        title: "The cases of iotest 124".to_owned(),
        text: "QEMU's own test of incremental backups, in the calm schedule. Where a case marks the place where it begins in earnest, the \
               picture begins there."
            .to_owned(),
        entries,
    })
}

fn chains(
    args: &GalleryArgs,
    runner: Runner,
    out: &Output,
    made: &mut Vec<(String, String)>,
) -> Result<GalleryPart, String> {
    let mut entries = Vec::new();
    for (folder, name, text) in CHAINS {
        let file = args.scenarios.join(folder).join(format!("{name}.yaml"));
        if !file.is_file() {
            continue;
        }
        let source = run(&file, Quirks::NONE, false, runner, out)?;
        let (picture, title) = (format!("{folder}-{name}.svg"), format!("{folder}/{name}"));
        let options = svg::Options { from: None, heading: Some(title.clone()), width: None };
        made.push((picture.clone(), svg::draw(&source, &options)));
        entries.push(GalleryEntry {
            title: title.clone(),
            text: format!("{} {text}", about(&file)?),
            command: format!("blockjob-sim timeline sim-scenarios/{title}.yaml -o page.html"),
            pictures: vec![(title, picture)],
        });
    }
    Ok(GalleryPart {
        title: "Mirror, commit and stream".to_owned(),
        text: "The jobs on backing chains, in the calm schedule: a pivot, the commit of an active layer, a soft cancel, and the two \
               without READY."
            .to_owned(),
        entries,
    })
}

/// The race of iotest 124 in each version of QEMU: pictures of the oldest and the newest side by side, and what a client of each reads.
fn versions(
    args: &GalleryArgs,
    runner: Runner,
    out: &Output,
    made: &mut Vec<(String, String)>,
) -> Result<Option<GalleryPart>, String> {
    let (mut pictures, mut columns) = (Vec::new(), Vec::<(String, Vec<String>)>::new());
    for version in Version::ALL {
        let name = format!("race-of-{}", version.name().replace('.', "-"));
        let file = args.scenarios.join("version").join(format!("{name}.yaml"));
        if !file.is_file() {
            return Ok(None);
        }
        let source = run(&file, Quirks::NONE, false, runner, out)?;
        let begins = |record: &Rec| matches!(&record.kind, RecKind::Command { name, .. } if name == "transaction");
        let from = source.records.iter().rposition(begins);
        let read = read_by_client(&source.records[from.unwrap_or(0)..]);
        match columns.iter_mut().find(|(_, other)| *other == read) {
            Some((names, _)) => *names = format!("{names}, {version}"),
            None => columns.push((version.to_string(), read)),
        }
        if [Version::V7_2, Version::V11_1].contains(&version) {
            let (picture, heading) = (format!("version-{name}.svg"), Some(format!("QEMU {version}")));
            made.push((picture.clone(), svg::draw(&source, &svg::Options { from, heading, width: Some(HALF) })));
            pictures.push((format!("QEMU {version}"), picture));
        }
    }
    let row = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut table = row(columns.iter().map(|(names, _)| names.as_str()).collect());
    table.push_str(&row(columns.iter().map(|_| "---").collect()));
    for i in 0..columns.iter().map(|(_, read)| read.len()).max().unwrap_or(0) {
        table.push_str(&row(columns.iter().map(|(_, read)| read.get(i).map_or("", String::as_str)).collect()));
    }
    let text = format!(
        "Two incremental backups in a group; that of drive1 fails. What a client reads from the transaction on, in each version:\n\n{table}\n\
         In 7.2 the job of the transaction's first action runs first, later that of its last."
    );
    let command = "blockjob-sim timeline sim-scenarios/version/race-of-7-2.yaml -o page.html".to_owned();
    let entry = GalleryEntry { title: "The race of iotest 124 in 7.2 and 11.1".to_owned(), text, command, pictures };
    Ok(Some(GalleryPart {
        title: "Versions of QEMU".to_owned(),
        text: "What a client sees of the same race in several versions, in the calm schedule.".to_owned(),
        entries: vec![entry],
    }))
}

/// What a client reads until it sends something else: the events and the reply, one a line.
fn read_by_client(records: &[Rec]) -> Vec<String> {
    let others = records.iter().skip(1).take_while(|record| !matches!(record.kind, RecKind::Command { .. }));
    let line = |record: &Rec| match &record.kind {
        RecKind::Reply { error, .. } => {
            Some(error.as_ref().map_or("reply".to_owned(), |error| format!("error: {error}")))
        }
        RecKind::Event { name, subject, status, error, .. } => {
            let what = status.as_deref().unwrap_or(name);
            Some(format!("{subject} {what}{}", error.as_ref().map_or(String::new(), |error| format!(": {error}"))))
        }
        _ => None,
    };
    others.filter_map(line).collect()
}

fn museum(
    args: &GalleryArgs,
    runner: Runner,
    out: &Output,
    made: &mut Vec<(String, String)>,
) -> Result<GalleryPart, String> {
    let dir = args.scenarios.join("museum");
    let found = if dir.is_dir() { files::scenarios(&dir).map_err(|why| format!("{why}\n"))? } else { Vec::new() };
    let mut entries = Vec::new();
    for file in found {
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let (Ok(quirk), Ok(Some(_))) = (name.parse::<Quirk>(), files::plan(&file)) else { continue };
        let Some(known) = TABLE.iter().find(|about| about.quirk == quirk) else { continue };
        let mut pictures = Vec::new();
        let mut ends = Vec::new();
        for (word, quirks) in [("off", Quirks::NONE.without(quirk)), ("on", Quirks::NONE.with(quirk))] {
            let source = run(&file, quirks, true, runner, out)?;
            let picture = format!("museum-{name}-{word}.svg");
            let options = svg::Options { from: None, heading: Some(format!("quirk {word}")), width: Some(HALF) };
            ends.push(source.outcome.clone().unwrap_or_default());
            made.push((picture.clone(), svg::draw(&source, &options)));
            pictures.push((format!("quirk {word}"), picture));
        }
        let text = format!(
            "**Scenario:** {} **Quirk:** {} Without it the run ends: *{}*. With it: *{}*, at the red line.",
            sentence(&about(&file)?),
            sentence(known.says),
            ends[0],
            ends[1]
        );
        let text = format!("{text}\n\nWhat it looks like to a user: {}", sentence(known.looks_like));
        let command = format!(
            "blockjob-sim timeline sim-scenarios/museum/{name}.yaml --beside-quirk {name} --check -o page.html"
        );
        entries.push(GalleryEntry { title: name, text, command, pictures });
    }
    Ok(GalleryPart {
        title: "The museum of bugs".to_owned(),
        text: "Wrong behaviour that QEMU once had, or that was made for tests, as a quirk that can be switched on: the same scenario without \
               it and with it, in the same schedule, with all invariants watched."
            .to_owned(),
        entries,
    })
}

/// A text with a capital and a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{stop}", chars.as_str())
}
