//! The documents say what the program prints: each `console` block of README.md and docs is carried out, in a directory of its own that
//! has the repository's scenarios in it, and what it shows is compared.
//!
//! In a block, a line that begins with `$ ` is a command; the lines below it are what it prints, standard output and standard error together.
//! `…` on a line of its own stands for any lines, at the end of a line for the rest of it. A command that shows nothing only has to end
//! as one that was written right does. `<!-- file: NAME -->` above a block makes a file of it first.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A block of a document.
struct Block {
    line: usize,
    language: String,
    /// The name of the file that it is.
    file: Option<String>,
    text: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut open, mut file) = (false, None);
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            open = !open;
            if open {
                let language = language.to_owned();
                found.push(Block { line: number + 1, language, file: file.take(), text: Vec::new() });
            }
        } else if open {
            found.last_mut().expect("a block is open").text.push(line.to_owned());
        } else if let Some(name) = line.strip_prefix("<!-- file: ") {
            file = Some(name.trim_end_matches(" -->").to_owned());
        }
    }
    found
}

/// Whether the lines are those shown, where `…` stands for what is left out. The first line that is missing.
fn shown(expected: &[String], got: &[String]) -> Result<(), String> {
    let fits = |wanted: &str, line: &str| match wanted.strip_suffix('…') {
        Some(beginning) => line.trim_end().starts_with(beginning.trim_end()),
        None => line.trim_end() == wanted.trim_end(),
    };
    let (mut at, mut anywhere) = (0, false);
    for wanted in expected {
        if wanted.trim() == "…" {
            anywhere = true;
            continue;
        }
        let found = match anywhere {
            true => (at..got.len()).find(|i| fits(wanted, &got[*i])),
            false => Some(at).filter(|i| got.get(*i).is_some_and(|line| fits(wanted, line))),
        };
        at = found.ok_or_else(|| format!("expected `{wanted}`, got `{}`", got.get(at).map_or("the end", |l| l)))? + 1;
        anywhere = false;
    }
    if anywhere || at == got.len() { Ok(()) } else { Err(format!("expected the end, got `{}`", got[at])) }
}

/// Carries out the blocks of a document, in a new directory. What differs.
fn carried_out(path: &Path) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["sim-scenarios", "snapshots", "tests", "docs", "examples"] {
        symlink(root.join(name), dir.path().join(name)).expect("a link");
    }
    fs::create_dir_all(dir.path().join("out")).expect("a directory");
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).expect("a directory");
    symlink(env!("CARGO_BIN_EXE_blockjob-sim"), bin.join("blockjob-sim")).expect("a link");
    let mut search = vec![bin];
    search.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let search = std::env::join_paths(search).expect("a path");
    let mut problems = Vec::new();
    for block in blocks(&fs::read_to_string(path).expect("a document")) {
        if let Some(file) = &block.file {
            fs::write(dir.path().join(file), block.text.join("\n") + "\n").expect("a file");
        }
        if block.language != "console" {
            continue;
        }
        let commands = block.text.split_inclusive(|_| true).flatten();
        let mut steps: Vec<(String, Vec<String>)> = Vec::new();
        for line in commands {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push((command.to_owned(), Vec::new())),
                (None, Some((command, output))) if output.is_empty() && command.ends_with('\\') => {
                    command.push('\n');
                    command.push_str(line);
                }
                (None, Some((_, output))) => output.push(line.clone()),
                (None, None) => problems.push(format!("{}:{}: no command", path.display(), block.line)),
            }
        }
        for (command, expected) in steps {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{command} 2>&1")]).current_dir(dir.path()).env("PATH", &search);
            let output = shell.output().expect("a shell");
            let got: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
            let place = format!("{}:{}: {command}", path.strip_prefix(root).unwrap_or(path).display(), block.line);
            if output.status.code().is_none_or(|code| code > 1) {
                problems.push(format!("{place}: ended with {}: {}", output.status, got.join("\n")));
            } else if !expected.is_empty()
                && let Err(difference) = shown(&expected, &got)
            {
                problems.push(format!("{place}: {difference}\n{}", got.join("\n")));
            }
        }
    }
    problems
}

#[test]
fn what_documents_show_is_what_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).expect("docs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "md") {
            paths.push(path);
        }
    }
    paths.sort();
    let problems: Vec<String> = paths.iter().flat_map(|path| carried_out(path)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].iter().map(|name| root.join(name)).collect();
    paths.extend(fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("an entry").path()));
    for path in paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let text = fs::read_to_string(path).expect("a document");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || link.contains("::") || file.is_empty();
            if !outside && !path.parent().expect("a folder").join(file).exists() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Each page says the same things in the same order, has its row in the table, and is counted where a reader begins.
#[test]
fn pages_of_findings_are_alike() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).expect("a document");
    let table = read(&root.join("docs/findings/README.md"));
    let mut problems = Vec::new();
    let mut pages = 0;
    for entry in fs::read_dir(root.join("docs/findings")).expect("the pages") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if name == "README" {
            continue;
        }
        pages += 1;
        let text = read(&path);
        let heading = |line: &str| {
            line.strip_prefix("**").and_then(|rest| rest.split_once(":**")).map(|(name, _)| name.to_owned())
        };
        let headings: Vec<String> = text.lines().filter_map(heading).collect();
        if headings != ["Sent", "What happens", "In the model", "Versions"] {
            problems.push(format!("{name}: its headings are {headings:?}"));
        }
        if !text.contains("```sh\n#!/bin/") {
            problems.push(format!("{name}: it has no script"));
        }
        if table.matches(&format!("| [{name}]({name}.md) |")).count() != 1 {
            problems.push(format!("{name}: the table does not have it once"));
        }
    }
    let count = format!("[{pages} defects](docs/findings/README.md)");
    if !read(&root.join("README.md")).contains(&count) {
        problems.push(format!("README.md does not say {count}"));
    }
    assert!(pages > 50 && problems.is_empty(), "{}", problems.join("\n"));
}

/// Numbers of things that grow: the documents say as many as there are.
#[test]
fn documents_count_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("a document");
    let number = |text: &str, before: &str, after: &str| -> usize {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("a document says `{before}`"));
        let (number, _) = rest.split_once(after).unwrap_or_else(|| panic!("a document says `{before}N{after}`"));
        number.parse().unwrap_or_else(|_| panic!("`{number}` is a number"))
    };
    let folders = fs::read_dir(root.join("tests/data/qemu")).expect("recordings");
    let recordings: usize =
        folders.map(|dir| fs::read_dir(dir.expect("an entry").path()).expect("a folder").count()).sum();
    let said = number(&read("docs/checked.md"), "more than ", " scenarios were run");
    assert!((said..said + 250).contains(&recordings), "docs/checked.md says {said}, there are {recordings}");
}
