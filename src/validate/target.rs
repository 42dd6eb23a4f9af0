//! A trace as the search follows it: what the process put out, and after how much of that each command was sent.

use crate::base::Json;
use crate::trace::compare::{ClientLine, same};
use crate::world::out::Output;

/// A trace, taken apart.
#[derive(Clone, Debug)]
pub struct Target {
    /// Replies and events, in their order.
    pub outputs: Vec<ClientLine>,
    /// The line of the trace that each output stands on, from 0.
    pub lines: Vec<usize>,
    /// What the process printed, line by line, where that is known too.
    pub console: Option<Vec<String>>,
    /// Whether the process hung at the trace's end: a command has no reply.
    pub hangs: bool,
    /// The signal that ended the process at the trace's end.
    pub killed: Option<String>,
    /// For each command: how many outputs were read before it was sent, its text, and its line.
    pub sent: Vec<(usize, Json, usize)>,
}

impl Target {
    /// Takes a trace apart.
    #[must_use]
    pub fn new(trace: &[ClientLine]) -> Target {
        let mut target = Target {
            outputs: Vec::new(),
            lines: Vec::new(),
            console: None,
            hangs: false,
            killed: None,
            sent: Vec::new(),
        };
        for (number, line) in trace.iter().enumerate() {
            match line {
                ClientLine::Command(command) => target.sent.push((target.outputs.len(), command.clone(), number)),
                output => {
                    target.outputs.push(output.clone());
                    target.lines.push(number);
                }
            }
        }
        let replies = target.outputs.iter().filter(|output| matches!(output, ClientLine::Reply(_))).count();
        target.hangs = replies < target.sent.len();
        target
    }

    /// Whether these are the lines that were printed from `from` on.
    #[must_use]
    pub fn printed(&self, from: usize, lines: &[String]) -> bool {
        self.console.as_ref().is_none_or(|all| all.get(from..).is_some_and(|rest| rest.starts_with(lines)))
    }

    /// Whether the output with that number is the one that the process gave.
    #[must_use]
    pub fn fits(&self, number: usize, output: &Output) -> bool {
        match (self.outputs.get(number), output) {
            (Some(ClientLine::Reply(wanted)), Output::Reply { reply, .. }) => same(wanted, reply),
            (Some(ClientLine::Event { name, data }), Output::Event { event, .. }) => {
                **name == *event.name() && same(data, &event.data())
            }
            _ => false,
        }
    }
}

/// What the process gave, as a line of a trace; `None` for text on its console.
#[must_use]
pub fn line(output: &Output) -> Option<ClientLine> {
    match output {
        Output::Reply { reply, .. } => Some(ClientLine::Reply(reply.clone())),
        Output::Event { event, .. } => Some(ClientLine::Event { name: event.name().into(), data: event.data() }),
        _ => None,
    }
}

/// Lines of a console without what differs from run to run: times and rates of qemu-io, and what a new image looks like.
#[must_use]
pub fn timeless(text: &str) -> Vec<String> {
    let kept = |line: &&str| !line.contains(" ops; ") && !line.starts_with("Formatting '") && !line.trim().is_empty();
    text.lines().filter(kept).map(|line| line.trim_end().to_owned()).collect()
}
