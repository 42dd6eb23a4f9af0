//! Runs with an atlas are the runs without one.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::explore::{self, Atlas, StartPoint, Strategy};
use blockjob_sim::sim::outcome::RunOptions;
use blockjob_sim::trace::Level;
use common::{in_threads, path, plan_of};
use std::fs;

/// As many states as an atlas keeps: all that there are, few, one.
const ROOMS: [usize; 3] = [4096, 20, 1];

/// Every seed gives the same run, whatever the atlas knows by then.
fn compare(file: &str, seeds: u64) {
    let Some(plan) = plan_of(file) else { return };
    let options = RunOptions { level: Some(Level::Client), check: true, ..RunOptions::default() };
    // Some scenarios are over before they get anywhere, on purpose.
    let Ok(start) = StartPoint::watched(&plan, &options) else { return };
    for room in ROOMS {
        let mut atlas = Atlas::new(&start, room);
        for seed in 0..seeds {
            for strategy in
                [Strategy::Urw, Strategy::Uniform, Strategy::Pct(3), Strategy::Preempt(2), Strategy::Delay(3)]
            {
                let plain = explore::run(&start, strategy.chooser(seed));
                let known = atlas.run(&start, || strategy.chooser(seed));
                assert_eq!(plain, known, "{file}, room for {room}: {strategy}, seed {seed}");
            }
        }
        assert!(atlas.states() <= room + 1, "{file}: {} states in a room for {room}", atlas.states());
    }
}

#[test]
fn the_race() {
    compare("sim-scenarios/iotest-124/transaction-failure-race.yaml", 40);
}

#[test]
fn scenarios_of_all_kinds() {
    let mut files = Vec::new();
    for folder in ["backup", "bitmap", "transaction", "job", "fault", "copy-before-write"] {
        let entries = fs::read_dir(path("sim-scenarios").join(folder)).expect("a folder of scenarios");
        files.extend(
            entries.map(|entry| format!("sim-scenarios/{folder}/{}", entry.expect("an entry").file_name().display())),
        );
    }
    files.retain(|file| file.ends_with(".yaml"));
    files.sort();
    in_threads(&files, |file| compare(file, 2));
}
