//! Reading scenario files from disk.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell reads real files")]

use crate::cli::output::Output;
use crate::cli::report;
use crate::cli::scenario::check::WIDTH;
use crate::scenario::plan::Plan;
use crate::scenario::{Library, ScenarioError, load_partly, load_with};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Scenario files are written by hand; one larger than this is something else.
const MAX_BYTES: u64 = 16 << 20;
/// The file of a campaign has a line for each block of runs.
const MAX_CAMPAIGN: u64 = 1 << 30;

/// Reads a scenario; `None` for a file that holds only definitions.
pub(super) fn plan(path: &Path) -> Result<Option<Plan>, Box<ScenarioError>> {
    plan_with(&mut Library::default(), path)
}

/// [`plan`], for many scenarios in a row.
pub(super) fn plan_with(library: &mut Library, path: &Path) -> Result<Option<Plan>, Box<ScenarioError>> {
    load_with(library, &path.to_string_lossy(), &mut |name| text(Path::new(name)))
}

/// [`plan`], with all mistakes: those of the form, and those that can be seen without a run.
pub(super) fn checked(library: &mut Library, path: &Path) -> Result<Option<Plan>, Vec<ScenarioError>> {
    let read = &mut |name: &str| text(Path::new(name));
    let (plan, mut mistakes) = load_partly(library, &path.to_string_lossy(), read);
    let whole = mistakes.is_empty();
    mistakes.extend(plan.iter().flat_map(|plan| crate::sim::lint::mistakes(plan, whole, read)));
    mistakes.sort_by_key(|mistake| (mistake.place.file.clone(), mistake.place.span.line));
    if mistakes.is_empty() { Ok(plan) } else { Err(mistakes) }
}

/// Reads a scenario that is to be run; says what is wrong if it cannot be.
pub(super) fn scenario(path: &Path, out: &mut Output) -> Option<Plan> {
    match plan(path) {
        Ok(Some(plan)) => Some(plan),
        Ok(None) => {
            out.error(&definitions_only(path));
            None
        }
        Err(error) => {
            out.complain(&report::render(&error, WIDTH, out.colour_err));
            None
        }
    }
}

/// The text of a file, or why it cannot be read.
pub(super) fn text(path: &Path) -> Result<String, String> {
    if path.as_os_str() == "-" {
        return input();
    }
    String::from_utf8(read(path, MAX_BYTES)?).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// The text of the file of a campaign, or why it cannot be read.
pub(super) fn campaign(path: &Path) -> Result<String, String> {
    let bytes = read(path, MAX_CAMPAIGN).map_err(|why| format!("{}: {why}", path.display()))?;
    String::from_utf8(bytes).map_err(|_| format!("{}: it is not UTF-8 text", path.display()))
}

/// What comes from standard input, all of it.
fn input() -> Result<String, String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| plain(&error))?;
    if read as u64 > MAX_BYTES { Err(format!("it is larger than {} MiB", MAX_BYTES >> 20)) } else { Ok(text) }
}

/// The bytes of a file, or why they cannot be read.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    read(path, MAX_BYTES).map_err(|why| format!("{}: {why}", path.display()))
}

/// All that the shell reads comes through here: a device or a pipe may have no end, and a file may be of any length.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let about = fs::metadata(path).map_err(|error| plain(&error))?;
    if about.is_dir() {
        return Err("this is a directory".to_owned());
    }
    if !about.is_file() {
        return Err("this is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| plain(&error))?;
    // Files of the system tell no length, and others may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() as u64 > most {
        return Err(format!("it is larger than {} MiB", most >> 20));
    }
    Ok(bytes)
}

/// What the system says of an error, without Rust's `(os error N)`.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Whether a file is that of a failure, by its beginning. What cannot be read is told of by whoever reads it whole.
fn is_failure(path: &Path) -> bool {
    const BEGINNING: &[u8] = b"failure: ";
    let mut begins = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BEGINNING.len() as u64).read_to_end(&mut begins));
    read.is_ok() && begins == BEGINNING
}

/// All `.yaml` and `.yml` files in `dir` and below it that are not failures a campaign has left there, by name; `dir` itself if it is a
/// file.
pub(super) fn scenarios(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let trouble = |path: &Path, error: &io::Error| format!("{}: {}", path.display(), plain(error));
    if dir.as_os_str() == "-" {
        return Ok(vec![dir.to_owned()]);
    }
    if fs::metadata(dir).map_err(|error| trouble(dir, &error))?.is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(|error| trouble(&dir, &error))? {
            let entry = entry.map_err(|error| trouble(&dir, &error))?;
            let path = entry.path();
            // Not through links: a link to a parent would have no end.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
                && !is_failure(&path)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is said where there are no scenarios in these places, or none of such a name.
pub(super) fn none(paths: &[PathBuf], filter: &[String]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    match filter.is_empty() {
        true => format!("{}: no scenarios here (their names end in .yaml or .yml)", paths.join(", ")),
        false => format!("{}: no scenario here whose name contains `{}`", paths.join(", "), filter.join("` or `")),
    }
}

/// What is said of a file that is included by scenarios and is none.
pub(super) fn definitions_only(path: &Path) -> String {
    format!("{}: this file holds only definitions, it is included by scenarios", path.display())
}

/// The scenarios of several files and directories, each with the directory that it was found in, where one of these texts stands in the
/// name (all, if there are none).
pub(super) fn named(paths: &[PathBuf], filter: &[String]) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let mut found = Vec::new();
    for path in paths {
        for file in scenarios(path)? {
            let name = file.to_string_lossy();
            if filter.is_empty() || filter.iter().any(|text| name.contains(&**text)) {
                found.push((path.clone(), file));
            }
        }
    }
    Ok(found)
}
