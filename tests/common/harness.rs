//! Tests with names of their own, for files that stand with `harness = false` in `Cargo.toml`: their `main` lists them, and
//! `libtest-mimic` runs them as `cargo test` and `cargo nextest` expect, with the same filters and options.
//!
//! A file without cargo's harness has no `#[test]`: [`trials`] lists its functions, and the compiler warns of one that is not listed.

#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(unused_macros, unused_imports, reason = "each test takes what it needs")]

use libtest_mimic::{Arguments, Failed, Trial};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

/// A program that not every machine has.
#[derive(Clone, Copy, Debug)]
pub enum Tool {
    /// qemu-img and qemu-io, which come together.
    QemuImg,
    /// Chromium or Chrome.
    Chromium,
    Python,
}

impl Tool {
    /// What to say where it is not installed.
    fn missing(self) -> &'static str {
        match self {
            Tool::QemuImg => "qemu-img or qemu-io is not installed",
            Tool::Chromium => "Chromium is not installed",
            Tool::Python => "python3 is not installed",
        }
    }

    /// The names of its programs: of each group one is needed.
    fn programs(self) -> &'static [&'static [&'static str]] {
        match self {
            Tool::QemuImg => &[&["qemu-img"], &["qemu-io"]],
            Tool::Chromium => &[&["chromium", "chromium-browser", "google-chrome", "chrome"]],
            Tool::Python => &[&["python3"]],
        }
    }

    /// Where it is on the path, if it is installed.
    pub fn found(self) -> Option<PathBuf> {
        let dirs: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        let find = |names: &&[&str]| {
            names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|file| file.is_file())
        };
        self.programs().iter().map(find).collect::<Option<Vec<_>>>()?.into_iter().next()
    }
}

thread_local! {
    /// In the thread of a test: the last panic in it, with its place.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A test that fails by a panic.
pub fn trial(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        PANIC.set(Some(String::new()));
        let result = catch_unwind(AssertUnwindSafe(run));
        let panic = PANIC.take().unwrap_or_default();
        result.map_err(|_| Failed::from(panic))
    })
}

/// Marks tests as skipped, with the reason in front of their names, if there is no such tool; `--include-ignored` runs them all the
/// same, to fail.
pub fn needing(tool: Tool, trials: Vec<Trial>) -> Vec<Trial> {
    match tool.found() {
        Some(_) => trials,
        None => trials.into_iter().map(|trial| trial.with_kind(tool.missing()).with_ignored_flag(true)).collect(),
    }
}

/// The tests of functions, under their names.
macro_rules! trials {
    ($($name:ident),* $(,)?) => { vec![$($crate::harness::trial(stringify!($name), $name)),*] };
}
pub(crate) use trials;

/// Runs those of the tests that the command line asks for.
pub fn main(trials: Vec<Trial>) -> ExitCode {
    // A panic in a test is told of with its test, if it fails: some runs are meant to crash.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match PANIC.with_borrow(Option::is_some) {
        true => PANIC.set(Some(panic.to_string())),
        false => usual(panic),
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
