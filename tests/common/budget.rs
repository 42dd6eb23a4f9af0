//! How many inputs a target gets, and for how long: by count unless the environment says otherwise.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::time::{Duration, Instant};

/// A count of inputs, or a time.
#[derive(Debug)]
pub struct Budget {
    /// The first seed.
    pub seed: u64,
    inputs: u64,
    began: Instant,
    end: Option<Instant>,
    made: u64,
}

impl Budget {
    /// `HOSTILE_INPUTS=N` sets the count, `HOSTILE_SEED=N` the seed; with `HOSTILE_SECONDS=N` it is the time that counts, unless a count
    /// is set as well.
    pub fn of_environment(usual: u64, seed: u64) -> Budget {
        let (began, seconds) = (Instant::now(), number("HOSTILE_SECONDS"));
        let usual = if seconds.is_some() { u64::MAX } else { usual };
        Budget {
            seed: number("HOSTILE_SEED").unwrap_or(seed),
            inputs: number("HOSTILE_INPUTS").unwrap_or(usual),
            began,
            end: seconds.map(|seconds| began + Duration::from_secs(seconds)),
            made: 0,
        }
    }

    /// The number of the next input, from 0, if there is one more.
    pub fn next(&mut self) -> Option<u64> {
        let number = self.made;
        if number >= self.inputs || self.end.is_some_and(|end| Instant::now() >= end) {
            return None;
        }
        self.made += 1;
        Some(number)
    }

    /// Says how many there were, and how long they took.
    pub fn tell(&self, target: &str) {
        println!("{target}: {} inputs from seed {} in {:.1?}", self.made, self.seed, self.began.elapsed());
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}
