//! A scenario made in Rust instead of YAML. It is written as the text that it stands for and read like any other, so that the same mistakes
//! are found and the same words explain it.

use super::{Plan, ScenarioError, load_str};
use serde_json::{Map, Value, json};

/// A scenario in the making: images, QEMU's arguments, and steps, in the order of the calls.
///
/// ```
/// use blockjob_sim::choice::Chooser;
/// use blockjob_sim::scenario::Builder;
/// use blockjob_sim::sim::{self, outcome::{Outcome, RunOptions}};
/// use serde_json::json;
///
/// let plan = Builder::new("A mirror is completed when it is in sync.")
///     .args(["-blockdev", "driver=null-co,node-name=disk,size=1048576", "-blockdev", "driver=null-co,node-name=target,size=1048576"])
///     .qmp("blockdev-mirror", json!({"job-id": "job0", "device": "disk", "target": "target", "sync": "full"}))
///     .step(json!({"wait": "job0", "until": "ready"}))
///     .qmp("block-job-complete", json!({"device": "job0"}))
///     .wait("job0")
///     .plan()?;
/// for seed in 0..10 {
///     let run = sim::run(&plan, Chooser::seed(seed), &RunOptions::default());
///     assert_eq!(run.outcome, Outcome::Passed, "seed {seed}: {}", run.outcome);
/// }
/// # Ok::<(), Box<blockjob_sim::scenario::ScenarioError>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    about: String,
    files: Vec<Value>,
    args: Vec<String>,
    steps: Vec<Value>,
    more: Map<String, Value>,
}

impl Builder {
    /// A scenario without steps. `about` says what it shows.
    #[must_use]
    pub fn new(about: &str) -> Builder {
        Builder { about: about.to_owned(), ..Builder::default() }
    }

    /// An image that is made before QEMU starts, of a format (`raw`, `qcow2`) and a size (`64M`).
    #[must_use]
    pub fn create(self, file: &str, format: &str, size: &str) -> Builder {
        self.file(json!({"create": {"file": file, "format": format, "size": size}}))
    }

    /// Bytes that an image holds before QEMU starts.
    #[must_use]
    pub fn write(self, file: &str, format: &str, pattern: u8, offset: u64, length: u64) -> Builder {
        let (pattern, what) = (u64::from(pattern), "write");
        self.file(
            json!({what: {"file": file, "format": format, "pattern": pattern, "offset": offset, "length": length}}),
        )
    }

    /// Any file step (`blockjob-sim help scenario`), done before QEMU starts.
    #[must_use]
    pub fn file(mut self, step: Value) -> Builder {
        self.files.push(step);
        self
    }

    /// Arguments of QEMU, added to those before.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Builder {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// A command that must succeed; `null` stands for no arguments.
    #[must_use]
    pub fn qmp(self, command: &str, arguments: Value) -> Builder {
        let mut request = Map::new();
        request.insert("execute".to_owned(), command.into());
        if !arguments.is_null() {
            request.insert("arguments".to_owned(), arguments);
        }
        self.step(json!({"qmp": request}))
    }

    /// A line of the human monitor that must succeed, such as `qemu-io drive0 "write 0 64k"`.
    #[must_use]
    pub fn hmp(self, line: &str) -> Builder {
        self.step(json!({"hmp": line}))
    }

    /// Waits for an event whose data matches.
    #[must_use]
    pub fn event(self, name: &str, data: Value) -> Builder {
        self.step(json!({"event": {"event": name, "data": data}}))
    }

    /// Waits until the block job has completed without an error, and is gone.
    #[must_use]
    pub fn wait(self, job: &str) -> Builder {
        self.step(json!({"wait": job}))
    }

    /// Two images must read the same.
    #[must_use]
    pub fn same(self, one: &str, other: &str) -> Builder {
        self.step(json!({"same": [one, other]}))
    }

    /// Any step, in the form that it has in a file (`blockjob-sim help scenario`). Its first member says what it does.
    #[must_use]
    pub fn step(mut self, step: Value) -> Builder {
        self.steps.push(step);
        self
    }

    /// Any other member of a scenario: `limits`, `quirks`, `schedule`.
    #[must_use]
    pub fn with(mut self, member: &str, value: Value) -> Builder {
        self.more.insert(member.to_owned(), value);
        self
    }

    /// The scenario as the text of a file, a step a line.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let list = |name: &str, steps: &[Value]| match steps.is_empty() {
            true => format!("{name}: []\n"),
            false => {
                format!("{name}:\n{}", steps.iter().map(|step| format!("  - {}\n", first(step))).collect::<String>())
            }
        };
        let mut text = format!("about: {}\n", Value::from(self.about.as_str()));
        text.push_str(&list("files", &self.files));
        text.push_str(&format!("args: {}\n", Value::from(self.args.clone())));
        self.more.iter().for_each(|(member, value)| text.push_str(&format!("{member}: {value}\n")));
        text.push_str(&list("steps", &self.steps));
        text
    }

    /// The scenario, its form checked. A name that nothing makes (a node, a job, a file) is a matter of the run, where the step fails;
    /// [`mistakes`](crate::sim::lint::mistakes) finds most of them before.
    ///
    /// # Errors
    /// The first mistake; its place is a line of [`Builder::to_yaml`].
    pub fn plan(&self) -> Result<Plan, Box<ScenarioError>> {
        load_str("scenario built in Rust", &self.to_yaml())
    }
}

/// Names of steps: what stands first in a step says what it does, and `serde_json` sorts members.
const NAMES: &[&str] = &["qmp", "hmp", "event", "wait"];

/// A step as text, with its name first.
fn first(step: &Value) -> String {
    let Value::Object(members) = step else { return step.to_string() };
    let mut members: Vec<(&String, &Value)> = members.iter().collect();
    members.sort_by_key(|(name, _)| !NAMES.contains(&name.as_str()));
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("{}: {value}", Value::from(name.as_str()))).collect();
    format!("{{{}}}", members.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_reads_as_its_text() {
        let made = Builder::new("It is \"quoted\": yes.")
            .create("a.raw", "raw", "1M")
            .write("a.raw", "raw", 7, 0, 512)
            .args(["-blockdev", "driver=file,node-name=a,filename=a.raw"])
            .with("schedule", "calm".into())
            .qmp("query-jobs", Value::Null)
            .step(json!({"error": "any", "qmp": {"execute": "nothing"}}))
            .step(json!({"wait": "j", "error": "No space left on device"}));
        let plan = made.plan().expect("no mistakes");
        assert_eq!(&*plan.about, "It is \"quoted\": yes.");
        // `wait` stands for two events.
        assert_eq!((plan.files.len(), plan.args.len(), plan.steps.len()), (2, 2, 4));
    }

    #[test]
    fn a_mistake_has_the_line_of_its_step() {
        let wrong = Builder::new("Wrong.").step(json!({"mark": "start"})).step(json!({"wati": "j"})).plan();
        let error = wrong.expect_err("it is wrong");
        assert!(
            error.to_string().contains("scenario built in Rust:6:") && error.place.label.contains("wait"),
            "{error}"
        );
    }
}
