//! A trace as the search follows it: what the process put out, and after how much of that each command was sent.

use crate::base::Json;
use crate::trace::compare::{ClientLine, same};
use crate::world::monitor::Output;

/// A trace, taken apart.
#[derive(Clone, Debug)]
pub struct Target {
    /// Replies and events, in their order.
    pub outputs: Vec<ClientLine>,
    /// The line of the trace that each output stands on, from 0.
    pub lines: Vec<usize>,
    /// For each command: how many outputs were read before it was sent, its text, and its line.
    pub sent: Vec<(usize, Json, usize)>,
}

impl Target {
    /// Takes a trace apart.
    #[must_use]
    pub fn new(trace: &[ClientLine]) -> Target {
        let mut target = Target { outputs: Vec::new(), lines: Vec::new(), sent: Vec::new() };
        for (number, line) in trace.iter().enumerate() {
            match line {
                ClientLine::Command(command) => target.sent.push((target.outputs.len(), command.clone(), number)),
                output => {
                    target.outputs.push(output.clone());
                    target.lines.push(number);
                }
            }
        }
        target
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
