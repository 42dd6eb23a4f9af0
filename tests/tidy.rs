//! Rules that no compiler checks: who may import whom, words that may not stand in the simulator, lengths, first sentences, and a
//! snapshot for each scenario.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/tables.rs"]
mod tables;

use tables::*;

struct Source {
    /// Relative to the crate, with `/`.
    path: String,
    text: String,
    /// Line by line, without comments, without what stands behind `#[cfg(test)]`. Empty for files of tests.
    code: Vec<String>,
}

impl Source {
    /// `world` of `src/world/io.rs`, `quirk` of `src/quirk.rs`; empty for `lib.rs` and `main.rs`.
    fn module(&self) -> &str {
        let rest = self.path.strip_prefix("src/").unwrap_or_default();
        let module = rest.split_once('/').map_or(rest.trim_end_matches(".rs"), |(module, _)| module);
        if matches!(module, "lib" | "main") { "" } else { module }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, ending, out);
        } else if path.to_string_lossy().ends_with(ending) {
            out.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the crate").to_string_lossy().replace('\\', "/")
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/")
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join("src"), ".rs", &mut paths);
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source file");
        let path = relative(path);
        let code = if is_test_file(&path) { Vec::new() } else { code(&text) };
        Source { path, text, code }
    };
    paths.iter().map(read).collect()
}

/// Unit tests stand last in a file, behind `#[cfg(test)]` on a `mod tests {`.
fn code(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = |pair: &[&str]| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_end().ends_with('{');
    let end = lines.windows(2).position(tests).unwrap_or(lines.len());
    let strip = |line: &&str| match line.trim_start() {
        comment if comment.starts_with("//") => String::new(),
        _ => line.split(" // ").next().unwrap_or_default().to_owned(),
    };
    lines[..end].iter().map(strip).collect()
}

fn complain(problems: &BTreeSet<String>) {
    let list: Vec<&str> = problems.iter().map(String::as_str).collect();
    assert!(problems.is_empty(), "{} untidy places:\n{}", list.len(), list.join("\n"));
}

/// The names behind `crate::` in a line, also those of a list in braces on the same line.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let parts: Vec<&str> = list.map_or_else(|| vec![rest], |list| list.split(',').collect());
        for part in parts {
            let name: String = part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut problems = BTreeSet::new();
    for source in sources() {
        let module = source.module();
        if module.is_empty() {
            continue;
        }
        let Some(may) = allowed.get(module) else {
            problems.insert(format!("{}: module `{module}` is not in the table of tests/tidy.rs", source.path));
            continue;
        };
        for (number, line) in source.code.iter().enumerate() {
            for name in imports(line) {
                if name != module && !may.contains(&name.as_str()) {
                    problems.insert(format!("{}:{}: `{module}` may not import `{name}`", source.path, number + 1));
                }
            }
        }
    }
    complain(&problems);
}

/// Where in `src/world` a path of modules leads: a room, or a file at the top.
fn place_in_world(path: &[String]) -> &str {
    let inside =
        |room: &&(&str, _)| room.0.split('/').count() <= path.len() && room.0.split('/').zip(path).all(|(a, b)| a == b);
    let room = ROOMS.iter().filter(inside).max_by_key(|room| room.0.len());
    let file = || WORLD_FILES.iter().find(|(file, _)| path.first().is_some_and(|first| first == file));
    room.map(|room| room.0).or_else(|| file().map(|file| file.0)).unwrap_or("mod")
}

/// The paths below `world` that a line names as `crate::world::…` or `super::…`, for a file that is the module `own` of it.
fn world_paths(line: &str, own: &[String]) -> Vec<Vec<String>> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    let mut add = |base: &[String], rest: &str| {
        let (mut path, mut rest) = (base.to_vec(), rest);
        while let Some(next) = rest.strip_prefix("::") {
            if let Some(list) = next.strip_prefix('{') {
                let parts = list.split('}').next().unwrap_or_default().split(',');
                found.extend(parts.map(|part| [path.as_slice(), &[name(part.trim())]].concat()));
                return;
            }
            path.push(name(next));
            rest = &next[name(next).len()..];
        }
        found.push(path);
    };
    for (at, _) in line.match_indices("crate::world") {
        add(&[], &line[at + "crate::world".len()..]);
    }
    let mut rest = line;
    while let Some(at) = rest.find("super::") {
        let (mut up, before) = (0, rest[..at].chars().next_back());
        rest = &rest[at..];
        while let Some(next) = rest.strip_prefix("super::") {
            (up, rest) = (up + 1, next);
        }
        if up <= own.len() && !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            add(&own[..own.len() - up], &format!("::{rest}"));
        }
    }
    found
}

/// Each import between two places of `src/world`: from, to, and where it stands.
fn world_imports() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for source in sources() {
        let Some(file) = source.path.strip_prefix("src/world/") else { continue };
        let parts = file.trim_end_matches(".rs").split('/').map(str::to_owned);
        let own: Vec<String> = parts.clone().filter(|part| part != "mod").collect();
        let here = place_in_world(&own).to_owned();
        let unknown = own.first().is_some_and(|first| here == "mod" && first != "mod");
        assert!(!unknown, "{}: stands in no room of tests/tidy.rs", source.path);
        for (number, line) in source.code.iter().enumerate() {
            for path in world_paths(line, &own) {
                let there = place_in_world(&path);
                if there != here {
                    found.push((here.clone(), there.to_owned(), format!("{}:{}", source.path, number + 1)));
                }
            }
        }
    }
    assert!(found.len() > 300, "only {} imports were found between the rooms of the world", found.len());
    found
}

#[test]
fn rooms_of_the_world_import_only_what_stands_above_them() {
    assert!(BACK.len() <= MAX_BACK, "{} exceptions", BACK.len());
    let order: Vec<&str> = ROOMS.iter().map(|room| room.0).collect();
    for (i, (room, may)) in ROOMS.iter().enumerate() {
        // With this there is no circle but through an exception.
        assert!(may.iter().all(|other| order[..i].contains(other)), "`{room}` may import what does not stand above it");
    }
    let mut problems = BTreeSet::new();
    let mut used = BTreeSet::new();
    for (from, to, place) in world_imports() {
        let sees_all = WORLD_FILES.iter().find(|(file, _)| *file == from).map(|(_, all)| *all);
        let row = ROOMS.iter().find(|room| room.0 == from);
        let back = BACK.iter().find(|back| back.0 == from && back.1 == to);
        used.extend(back.map(|back| (back.0, back.1)));
        let may = match (sees_all, row) {
            (Some(all), _) => all || WORLD_SHARED.contains(&to.as_str()),
            (_, Some((_, may))) => may.contains(&to.as_str()) || WORLD_SHARED.contains(&to.as_str()) || back.is_some(),
            _ => false,
        };
        if !may {
            problems.insert(format!("{place}: `{from}` may not import `{to}`"));
        }
    }
    let unused = BACK.iter().filter(|back| !used.contains(&(back.0, back.1)));
    problems.extend(unused.map(|(from, to, _)| format!("`{from}` may import `{to}` and does not")));
    complain(&problems);
}

/// A file that was split is a file with a subject, and so is a folder: neither is long.
#[test]
fn files_and_folders_are_small() {
    let mut paths = Vec::new();
    walk(&root().join("src"), ".rs", &mut paths);
    walk(&root().join("tests"), ".rs", &mut paths);
    let mut problems = BTreeSet::new();
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for path in &paths {
        let lines = fs::read_to_string(path).expect("a source file").lines().count();
        let path = relative(path);
        if lines > MAX_LINES {
            problems.insert(format!("{path}: {lines} lines, more than {MAX_LINES}"));
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        *folders.entry(folder.to_owned()).or_default() += usize::from(path.starts_with("src/"));
    }
    let large = folders.iter().filter(|(_, files)| **files > MAX_FILES);
    problems.extend(large.map(|(folder, files)| format!("{folder}: {files} files, more than {MAX_FILES}")));
    complain(&problems);
}

#[test]
fn the_life_cycle_and_the_monitor_name_no_job() {
    let mut problems = BTreeSet::new();
    let mut files = 0;
    for source in sources() {
        if !KNOWS_NO_JOB.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        files += 1;
        for (number, line) in source.code.iter().enumerate() {
            let text = line.to_lowercase();
            let is_module = text.trim_start().starts_with("pub mod ") && text.trim_end().ends_with(';');
            for name in JOB_NAMES.iter().filter(|name| !is_module && text.contains(*name)) {
                problems.insert(format!("{}:{}: `{name}` is named there", source.path, number + 1));
            }
        }
    }
    assert!(files > KNOWS_NO_JOB.len(), "only {files} files were looked at");
    complain(&problems);
}

/// A filter that somebody puts up is made as `Some(Driver::…)` for a node; all else that names a driver looks at one.
#[test]
fn drivers_are_told_apart_by_their_rows() {
    let mut problems = BTreeSet::new();
    let mut looked = BTreeSet::new();
    for source in sources() {
        if !source.path.starts_with("src/world/") || KNOWS_DRIVERS.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for (number, line) in source.code.iter().enumerate() {
            let names = line.match_indices("Driver::").any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = line[at + "Driver::".len()..].chars().next();
                !before.is_some_and(|c| c.is_alphanumeric() || c == ':') && after.is_some_and(char::is_uppercase)
            });
            if !names || line.contains(".driver = Some(Driver::") {
                continue;
            }
            match LOOKS_AT_DRIVERS.iter().find(|(path, _)| *path == source.path) {
                Some((path, _)) => drop(looked.insert(*path)),
                None => drop(problems.insert(format!("{}:{}: a driver is looked at", source.path, number + 1))),
            }
        }
    }
    let unused = LOOKS_AT_DRIVERS.iter().filter(|(path, _)| !looked.contains(path));
    problems.extend(unused.map(|(path, _)| format!("{path} may look at drivers and does not")));
    complain(&problems);
}

#[test]
fn imports_of_the_world_are_read_as_they_are_written() {
    let own = ["job", "txn"].map(str::to_owned);
    let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<String>>();
    assert_eq!(
        world_paths("use crate::world::block::io::{flush, write};", &own),
        [path("block/io/flush"), path("block/io/write")]
    );
    assert_eq!(world_paths("use super::super::aio::queue::Bh;", &own), [path("aio/queue/Bh")]);
    assert_eq!(world_paths("use super::{Job, hooks};", &own), [path("job/Job"), path("job/hooks")]);
    assert_eq!(place_in_world(&path("block/io/flush")), "block/io");
    assert_eq!(place_in_world(&path("block/graph")), "block");
    assert_eq!(place_in_world(&path("World")), "mod");
}

/// Whether `word` stands in `line` by itself, and not as part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let (starts, ends) = (word.starts_with(is_name), word.ends_with(is_name));
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        // `'static ` is a lifetime.
        !(starts && before.is_some_and(|c| is_name(c) || c == '\'') || ends && after.is_some_and(is_name))
    })
}

#[test]
fn banned_words_are_absent() {
    let mut problems = BTreeSet::new();
    for source in sources() {
        for (number, line) in source.code.iter().enumerate() {
            for (word, reason, except) in BANNED {
                if has_word(line, word) && !except.iter().any(|place| source.path.starts_with(place)) {
                    problems.insert(format!("{}:{}: `{word}`: {reason}", source.path, number + 1));
                }
            }
        }
    }
    complain(&problems);
}

#[test]
fn exceptions_are_still_needed() {
    let sources = sources();
    let mut problems = BTreeSet::new();
    for (word, _, except) in BANNED {
        for place in except.iter().filter(|place| place.ends_with(".rs")) {
            let used = |source: &Source| source.path == *place && source.code.iter().any(|line| has_word(line, word));
            if !sources.iter().any(used) {
                problems.insert(format!("{place}: `{word}` is allowed there and not used"));
            }
        }
    }
    complain(&problems);
}

#[test]
fn modules_begin_with_a_sentence() {
    let mut problems = BTreeSet::new();
    for source in sources().iter().filter(|source| !is_test_file(&source.path)) {
        let doc: Vec<&str> = source.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let first = doc.split(|line| line.trim().is_empty()).next().unwrap_or_default().join(" ");
        let included = source.path == "src/lib.rs";
        if !included && !first.contains(['.', ':']) {
            problems.insert(format!("{}: the module has no first sentence", source.path));
        }
    }
    complain(&problems);
}

/// Cargo takes `#[test]` out of a test that brings its own harness, and nobody would miss it.
#[test]
fn tests_with_their_own_harness_list_what_they_run() {
    let cargo = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let mut problems = BTreeSet::new();
    for section in cargo.split("\n[").filter(|section| section.starts_with("[test]]")) {
        let name = section.lines().find_map(|line| line.strip_prefix("name = ")).expect("a name").trim_matches('"');
        let text = fs::read_to_string(root().join(format!("tests/{name}.rs"))).expect("a test");
        let own = section.contains("harness = false");
        if own && text.lines().any(|line| line.trim() == "#[test]") {
            problems.insert(format!("tests/{name}.rs: `#[test]` is not run there: list the function in `main`"));
        }
    }
    complain(&problems);
}

/// `tests/data/README.md` has a row for each file, and what it says makes one anew is a door of `tests/remake.sh`.
#[test]
fn test_data_says_where_it_comes_from() {
    let readme = fs::read_to_string(root().join("tests/data/README.md")).expect("a page");
    let doors = fs::read_to_string(root().join("tests/remake.sh")).expect("a script");
    let rows: Vec<Vec<&str>> =
        readme.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('|').map(str::trim).collect())).collect();
    let mut problems = BTreeSet::new();
    for entry in fs::read_dir(root().join("tests/data")).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let named = |row: &Vec<&str>| row[0].trim_end_matches('`').split('/').next() == Some(&*name);
        if name != "README.md" && !rows.iter().any(named) {
            problems.insert(format!("tests/data/README.md does not say where {name} comes from"));
        }
    }
    for row in &rows {
        let door = row.get(3).map_or("", |door| door.trim_matches('`'));
        let there = doors.lines().any(|line| line.starts_with(&format!("{door})")));
        if !door.is_empty() && !there {
            problems.insert(format!("tests/remake.sh has no `{door}`"));
        }
    }
    complain(&problems);
}

/// `sim-scenarios/A/B.yaml` has at least one snapshot whose name begins with `A/B.` or `A/B-` below `snapshots/`.
#[test]
fn scenarios_have_snapshots() {
    let (mut scenarios, mut snapshots) = (Vec::new(), Vec::new());
    walk(&root().join("sim-scenarios"), ".yaml", &mut scenarios);
    walk(&root().join("snapshots"), ".snap", &mut snapshots);
    let snapshots: Vec<String> = snapshots.iter().map(|path| relative(path)["snapshots/".len()..].to_owned()).collect();
    let mut problems = BTreeSet::new();
    for path in &scenarios {
        let text = fs::read_to_string(path).expect("a scenario");
        if !text.lines().any(|line| line.starts_with("steps:")) {
            continue;
        }
        let name = relative(path)["sim-scenarios/".len()..].trim_end_matches(".yaml").to_owned();
        if !snapshots
            .iter()
            .any(|snap| snap.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['.', '@', '-', '/'])))
        {
            problems.insert(format!("sim-scenarios/{name}.yaml has no snapshot"));
        }
    }
    assert!(!scenarios.is_empty());
    complain(&problems);
}

#[test]
fn nothing_else_stands_at_the_top() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "sim-scenarios",
        "snapshots",
        "tests",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "benches",
        "docs",
        "rustfmt.toml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "examples",
        "target",
    ];
    // What a user left there is not looked at: only what the repository holds.
    let listed = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = listed.split('\0').filter_map(|path| path.split('/').next()).filter(|name| !name.is_empty());
    let strays = names.filter(|name| !name.starts_with('.') && !allowed.contains(name));
    complain(&strays.map(str::to_owned).collect());
}

/// The name of a type that a line declares for others than its own module and that module's parent.
fn declared_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ").or_else(|| line.trim_start().strip_prefix("pub(crate) "))?;
    let rest = ["struct ", "enum ", "trait ", "union "].iter().find_map(|word| rest.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

#[test]
fn types_have_a_subject() {
    let (mut problems, mut used) = (BTreeSet::new(), BTreeSet::new());
    for source in sources() {
        for name in source.code.iter().filter_map(|line| declared_type(line)) {
            if !NO_SUBJECT.contains(&name) {
                continue;
            }
            match SUBJECT_IS_CLEAR.iter().position(|(path, known, _)| *path == source.path && *known == name) {
                Some(at) => _ = used.insert(at),
                None => _ = problems.insert(format!("{}: `{name}` of what?", source.path)),
            }
        }
    }
    for (at, (path, name, _)) in SUBJECT_IS_CLEAR.iter().enumerate() {
        if !used.contains(&at) {
            problems.insert(format!("{path}: has no `{name}`, and needs no exception"));
        }
    }
    complain(&problems);
}

/// The words of a text in small letters, without articles and the `s` of a plural. `FileLength`, `file_length` and "file length" are alike.
fn plain_words(text: &str) -> BTreeSet<String> {
    let mut spaced = String::new();
    let mut small = false;
    for c in text.chars() {
        if c.is_uppercase() && small {
            spaced.push(' ');
        }
        small = c.is_lowercase() || c.is_numeric();
        spaced.extend(c.to_lowercase());
    }
    let words = spaced.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let said = words.filter(|word| !["a", "an", "the", "its", "it", "of", "is", "that", "this", "are"].contains(word));
    said.map(|word| word.trim_end_matches('s').to_owned()).collect()
}

/// The name of the item that a line begins: a function, a type, a field, a variant.
fn declared_name(line: &str) -> &str {
    let mut rest = line.trim_start();
    if let Some(behind) = rest.strip_prefix("pub") {
        let behind = behind.strip_prefix('(').and_then(|of| of.split_once(')')).map_or(behind, |(_, behind)| behind);
        rest = behind.trim_start();
    }
    for word in ["const ", "async ", "fn ", "struct ", "enum ", "trait ", "type ", "static ", "mod "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default()
}

/// Lines whose comment says nothing that the name below it does not say. Help texts of options are written for those who do not see the
/// name: `src/cli` is free.
fn repeated_names(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let is_doc = |line: &str| line.trim_start().starts_with("///");
    let mut found = Vec::new();
    for at in 0..lines.len() {
        let alone = is_doc(lines[at]) && !(at > 0 && is_doc(lines[at - 1]));
        let Some(mut next) = lines.get(at + 1).copied().filter(|next| alone && !is_doc(next)) else { continue };
        if let Some(item) = lines[at + 1..].iter().find(|line| !line.trim_start().starts_with("#[")) {
            next = item;
        }
        let said = plain_words(lines[at]);
        if !lines[at].contains('`') && !said.is_empty() && said.is_subset(&plain_words(declared_name(next))) {
            found.push(at + 1);
        }
    }
    found
}

#[test]
fn comments_say_more_than_the_name() {
    let mut problems = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("src/cli")) {
        problems.extend(
            repeated_names(&source.text).iter().map(|line| format!("{}:{line}: repeats the name", source.path)),
        );
    }
    complain(&problems);
}

#[test]
fn a_comment_that_repeats_a_name_is_seen() {
    let repeats = "/// The length of a file.\n#[must_use]\npub(crate) fn file_length() {}\n    /// Its name.\n    pub name: u32,\n";
    assert_eq!(repeated_names(repeats), [1, 4]);
    let says = "/// In bytes.\npub len: u64,\n/// Flags.\n///\n/// More.\npub flags: u8,\n/// `name`\npub name: u8,\n";
    assert_eq!(repeated_names(says), [] as [usize; 0]);
    assert_eq!(declared_type("    pub(crate) enum Mode {"), Some("Mode"));
    assert_eq!(declared_type("pub(super) struct Part;"), None);
}
