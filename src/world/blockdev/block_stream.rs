//! `block-stream` (`blockdev.c:qmp_block_stream`).

use crate::base::Json;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::hmp::args::HmpArgs;
use crate::qmp::types::BlockStream;
use crate::world::World;
use crate::world::frame::Flow;
use crate::world::job::commands::{HmpJobCommand, JobCommands};
use crate::world::job::stream::StreamStart;
use crate::world::value::Val;

/// `qmp_block_stream`, `hmp_block_stream`
pub(super) const COMMANDS: JobCommands = JobCommands {
    qmp: |w, command| match command {
        Command::BlockStream(args) => Ok(w.block_stream(&args)),
        other => Err(other),
    },
    hmp: &[HmpJobCommand { name: "block_stream", arguments: hmp_arguments }],
    actions: None,
    listed_as: Some(("stream", "Streaming")),
};

/// The device's name is the job's, too.
fn hmp_arguments(args: &HmpArgs) -> Vec<(&'static str, Json)> {
    let device = args.text("device").unwrap_or_default();
    let mut members = vec![("device", Json::str(device)), ("job-id", Json::str(device))];
    members.extend(args.int("speed").map(|speed| ("speed", Json::Int(speed))));
    members.extend(args.text("base").map(|base| ("base", Json::str(base))));
    members
}

impl World {
    /// `qmp_block_stream`. Leaves `Val::Done`.
    fn block_stream(&mut self, args: &BlockStream) -> Flow {
        match self.block_stream_checks(args) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(start) => self.stream_start(start),
        }
    }

    fn block_stream_checks(&self, args: &BlockStream) -> Result<Box<StreamStart>, QmpError> {
        let fail = |text: String| Err(QmpError::generic(text));
        let (base, base_node, bottom) = (args.base.as_deref(), args.base_node.as_deref(), args.bottom.as_deref());
        let both = match (base, base_node, bottom) {
            (Some(_), Some(_), _) => Some(("base", "base-node")),
            (Some(_), _, Some(_)) => Some(("base", "bottom")),
            (_, Some(_), Some(_)) => Some(("bottom", "base-node")),
            _ => None,
        };
        if let Some((one, other)) = both {
            return fail(format!("'{one}' and '{other}' cannot be specified at the same time"));
        }
        let device = &args.device;
        let bs = self.lookup_bs(device)?;
        let by_name = |name| self.bdrv_lookup_bs(None, Some(name));
        let mut base_bs = None;
        if let Some(base) = base {
            base_bs = self.find_backing_image(bs, base);
            if base_bs.is_none() {
                return fail(format!("Can't find '{base}' in the backing chain"));
            }
        }
        if let Some(name) = base_node {
            let node = by_name(name)?;
            if node == bs || !self.graph.chain_contains(bs, node) {
                return fail(format!("Node '{name}' is not a backing image of '{device}'"));
            }
            base_bs = Some(node);
        }
        let bottom_bs = bottom.map(by_name).transpose()?;
        if let (Some(name), Some(node)) = (bottom, bottom_bs) {
            match &self.graph.nodes[node].driver {
                None => return fail(format!("Node '{name}' is not open")),
                Some(driver) if driver.is_filter() => {
                    return fail(format!("Node '{name}' is a filter, use a non-filter node as 'bottom'"));
                }
                Some(_) => {}
            }
            if !self.graph.chain_contains(bs, node) {
                return fail(format!("Node '{name}' is not in a chain starting from '{device}'"));
            }
        }
        let end = bottom_bs.map_or(base_bs, |bottom| self.graph.filter_or_cow_bs(bottom));
        let mut iter = Some(bs);
        while let Some(node) = iter.filter(|node| Some(*node) != end) {
            if let Some(err) = self.op_blocked_by_job(node) {
                return Err(err);
            }
            iter = self.graph.filter_or_cow_bs(node);
        }
        if base_bs.is_none() && args.backing_file.is_some() {
            return fail("backing file specified, but streaming the entire chain".to_owned());
        }
        self.stream_start_checks(args, bs, base_bs, bottom_bs)
    }
}
