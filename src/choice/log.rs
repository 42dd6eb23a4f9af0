//! What was chosen in a run, and its text form.
//!
//! ```text
//! @17 complete-next 2/5     the 18th choice of the run was among 5, and the third alternative was taken
//! @203 latency:3 1/4        subject 3
//! total 512                 the run made 512 choices
//! ```
//!
//! Choices that a log leaves out are calm. Lines may also stand on one line with commas between them, and `#` starts a comment.

use super::ChoicePoint;
use std::fmt;
use std::str::FromStr;

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Where it was asked.
    pub point: ChoicePoint,
    /// How many alternatives there were, at least 2.
    pub among: u32,
    /// Which was taken, below `among`; 0 is calm.
    pub pick: u32,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.point, self.pick, self.among)
    }
}

/// A choice and how many were made before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbered {
    /// Counted from 0.
    pub index: u32,
    /// What was chosen there.
    pub choice: Choice,
}

/// The choices of a run, by ascending index: all of them, or only those worth keeping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChoiceLog {
    entries: Vec<Numbered>,
    /// How many choices the run made; `None` where the author of the log did not say.
    total: Option<u32>,
}

impl ChoiceLog {
    /// Notes the next choice of a run.
    pub fn push(&mut self, choice: Choice) {
        let index = self.total.unwrap_or(0);
        self.entries.push(Numbered { index, choice });
        self.total = Some(index + 1);
    }

    /// Puts another pick in the place of the last one.
    pub fn amend(&mut self, pick: u32) {
        if let Some(last) = self.entries.last_mut() {
            last.choice.pick = pick;
        }
    }

    /// What the log holds, by ascending index.
    #[must_use]
    pub fn entries(&self) -> &[Numbered] {
        &self.entries
    }

    /// How many choices the run made, if known.
    #[must_use]
    pub fn total(&self) -> Option<u32> {
        self.total
    }

    /// How many choices the log holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The log without its calm picks: what a person wants to see, and enough to replay.
    #[must_use]
    pub fn deviations(&self) -> ChoiceLog {
        let entries = self.entries.iter().copied().filter(|entry| entry.choice.pick != 0).collect();
        ChoiceLog { entries, total: self.total }
    }

    /// The log on one line, as a shell's argument.
    #[must_use]
    pub fn one_line(&self) -> String {
        self.to_string().trim_end().replace('\n', ", ")
    }
}

impl fmt::Display for ChoiceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Numbered { index, choice } in &self.entries {
            writeln!(f, "@{index} {choice}")?;
        }
        self.total.map_or(Ok(()), |total| writeln!(f, "total {total}"))
    }
}

/// What is wrong with the text of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`: {problem}")]
pub struct LogError {
    /// Counted from 1.
    pub line: usize,
    /// The part at fault.
    pub text: String,
    /// What was expected instead.
    pub problem: &'static str,
}

impl FromStr for ChoiceLog {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let mut log = ChoiceLog::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("");
            for part in line.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                parse_part(&mut log, part).map_err(|problem| LogError {
                    line: i + 1,
                    text: part.to_owned(),
                    problem,
                })?;
            }
        }
        Ok(log)
    }
}

/// Reads `@index point pick/among` or `total n` into `log`.
fn parse_part(log: &mut ChoiceLog, part: &str) -> Result<(), &'static str> {
    if log.total.is_some() {
        return Err("nothing may follow `total`");
    }
    let after = log.entries.last().map_or(0, |last| last.index.saturating_add(1));
    let mut words = part.split_whitespace();
    let first = words.next().unwrap_or("");
    if first == "total" {
        let total = words.next().and_then(|n| n.parse().ok()).ok_or("expected `total` and a number")?;
        if words.next().is_some() || total < after {
            return Err("expected `total` and a number above all indexes");
        }
        log.total = Some(total);
        return Ok(());
    }
    let index = first.strip_prefix('@').and_then(|n| n.parse().ok()).filter(|n| *n < u32::MAX);
    let index: u32 = index.ok_or("expected `@index point pick/among` or `total n`")?;
    if index < after {
        return Err("indexes must ascend");
    }
    let point = words.next().and_then(ChoicePoint::parse).ok_or("no such choice point")?;
    let (pick, among) = words.next().and_then(|w| w.split_once('/')).ok_or("expected pick/among")?;
    let (Ok(pick), Ok(among)) = (pick.parse(), among.parse()) else {
        return Err("expected pick/among, two numbers");
    };
    if among < 2 || pick >= among {
        return Err("expected pick/among with among at least 2 and pick below it");
    }
    if words.next().is_some() {
        return Err("expected a comma or a new line after pick/among");
    }
    log.entries.push(Numbered { index, choice: Choice { point, among, pick } });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_back() {
        let mut log = ChoiceLog::default();
        for (pick, point) in [(0, ChoicePoint::BhOrder), (2, ChoicePoint::CompleteNext), (1, ChoicePoint::Latency(3))] {
            log.push(Choice { point, among: 5, pick });
        }
        assert_eq!(log.to_string(), "@0 bh-order 0/5\n@1 complete-next 2/5\n@2 latency:3 1/5\ntotal 3\n");
        assert_eq!(log.to_string().parse(), Ok(log.clone()));
        let few = log.deviations();
        assert_eq!(few.one_line(), "@1 complete-next 2/5, @2 latency:3 1/5, total 3");
        assert_eq!(few.one_line().parse(), Ok(few));
        assert_eq!("# calm\n\n".parse(), Ok(ChoiceLog::default()));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str| text.parse::<ChoiceLog>().unwrap_err().to_string();
        assert_eq!(
            wrong("@1 bh-order 2/2"),
            "line 1: `@1 bh-order 2/2`: expected pick/among with among at least 2 and pick below it"
        );
        assert_eq!(wrong("\n@1 nothing 1/2"), "line 2: `@1 nothing 1/2`: no such choice point");
        assert_eq!(wrong("@4 bh-order 1/2, @4 bh-order 1/2"), "line 1: `@4 bh-order 1/2`: indexes must ascend");
        assert_eq!(
            wrong("@4 bh-order 1/2, total 4"),
            "line 1: `total 4`: expected `total` and a number above all indexes"
        );
        assert_eq!(
            wrong("1 bh-order 1/2"),
            "line 1: `1 bh-order 1/2`: expected `@index point pick/among` or `total n`"
        );
        assert_eq!(wrong("total 1, total 1"), "line 1: `total 1`: nothing may follow `total`");
        assert_eq!(wrong("@1 bh-order 1"), "line 1: `@1 bh-order 1`: expected pick/among");
        assert_eq!(
            wrong("@1 bh-order 1/2 x"),
            "line 1: `@1 bh-order 1/2 x`: expected a comma or a new line after pick/among"
        );
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "[@0-9a-z:/, #\n-]{0,80}") {
            let _ = text.parse::<ChoiceLog>();
        }
    }
}
