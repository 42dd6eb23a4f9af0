//! Chains of images whose nodes have names, for jobs that work on chains.

use super::draw::Draw;
use super::knobs::Knobs;
use super::shape::{Drive, Shape, file_node, format_node};
use crate::base::Json;
use std::sync::Arc;

impl Shape {
    /// Defines the nodes of a drive and of the images below its own: nodes of their own, nodes that only their overlay holds, with names or
    /// without.
    pub(super) fn chain(
        &mut self,
        drive: &mut Drive,
        unmap: bool,
        zeroes: Option<&str>,
        knobs: &Knobs,
        d: &mut Draw,
        faults: &mut Draw,
    ) {
        let number = self.drives.len();
        let way = d.weighted(&[(2, "owned"), (2, "named"), (1, "nameless")]);
        let lowest = drive.layers.len() - 1;
        if way != "nameless" {
            for (level, layer) in drive.layers.iter_mut().enumerate().skip(1) {
                layer.node = Some(format!("n{number}b{level}").into());
            }
        }
        drive.layers[0].node = Some(drive.node.clone());
        let mut below: Option<Json> = None;
        for level in (1..=lowest).rev() {
            let (Some(node), file, format) =
                (drive.layers[level].node.clone(), drive.layers[level].file.clone(), drive.layers[level].format)
            else {
                break;
            };
            let mut protocol = file_node(&file, unmap);
            if way == "owned" && faults.one_in(knobs.faulty_drive_one_in * 3) {
                let mut debug = vec![("driver", "blkdebug".into()), ("image", protocol)];
                debug.extend(self.rules(format, "source", faults));
                protocol = Json::dict(debug);
            }
            let mut options = format_node(format, &node, protocol, unmap, None);
            if let (Some(below), "qcow2") = (below.take(), format) {
                options = with(options, "backing", below);
            }
            if way == "owned" {
                self.blockdev(&options);
                below = Some(Json::Str(node));
            } else {
                below = Some(options);
            }
        }
        self.uppermost(number, drive, below, unmap, zeroes, d);
    }

    /// The drive's own node, as a device or as a node alone.
    fn uppermost(
        &mut self,
        number: usize,
        drive: &mut Drive,
        below: Option<Json>,
        unmap: bool,
        zeroes: Option<&str>,
        d: &mut Draw,
    ) {
        let (node, file, format) = (drive.node.clone(), drive.layers[0].file.clone(), drive.layers[0].format);
        if d.one_in(2) {
            let mut options = format_node(format, &node, file_node(&file, unmap), unmap, zeroes);
            if let Some(below) = below {
                options = with(options, "backing", below);
            }
            self.blockdev(&options);
            return;
        }
        let mut option = format!("if=none,id=drive{number},file={file},format={format},node-name={node}");
        option.push_str(if unmap { ",discard=unmap" } else { "" });
        option.push_str(&zeroes.map(|zeroes| format!(",detect-zeroes={zeroes}")).unwrap_or_default());
        if let Some(below) = below {
            flat("backing", &below, &mut option);
        }
        self.args.extend(["-drive".into(), option.into()]);
        let name: Arc<str> = format!("drive{number}").into();
        (drive.name, drive.is_device) = (name, true);
    }
}

/// The options with one more.
fn with(options: Json, key: &'static str, value: Json) -> Json {
    let mut members = options.as_dict().unwrap_or_default().to_vec();
    members.push((key.into(), value));
    Json::Dict(Arc::new(members))
}

/// Options as `-drive` takes them: `,backing.file.filename=…`.
fn flat(key: &str, value: &Json, text: &mut String) {
    match value {
        Json::Dict(members) => members.iter().for_each(|(name, value)| flat(&format!("{key}.{name}"), value, text)),
        Json::Str(value) => text.push_str(&format!(",{key}={value}")),
        Json::Bool(value) => text.push_str(&format!(",{key}={}", if *value { "on" } else { "off" })),
        _ => {}
    }
}
