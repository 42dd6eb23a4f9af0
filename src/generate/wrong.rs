//! Arguments that are wrong on purpose.

use super::program::Program;
use crate::base::Json;
use std::sync::Arc;

impl Program<'_> {
    /// The arguments, one of them spoilt where the knobs want it.
    pub(super) fn spoilt(&mut self, command: &str, arguments: Json) -> Json {
        if !self.wrong.one_in(self.knobs.wrong_one_in) {
            return arguments;
        }
        let mut members: Vec<(Arc<str>, Json)> = arguments.as_dict().unwrap_or_default().to_vec();
        if members.is_empty() || self.wrong.one_in(8) {
            members.push(("bogus".into(), Json::Int(1)));
            return Json::Dict(Arc::new(members));
        }
        let at = self.wrong.below(members.len());
        if self.wrong.one_in(5) {
            members.remove(at);
            return Json::Dict(Arc::new(members));
        }
        // QEMU takes some of these to heart: it aborts on an absurd size of a null node, and crashes over an `enable` that finds nothing.
        let numbers = self.knobs.crashes || command != "blockdev-add";
        let names = self.knobs.crashes || !(self.in_transaction && command == "block-dirty-bitmap-enable");
        // A disk that was grown to a tebibyte is shrunk again for hours, by QEMU as well.
        let large = if command == "block_resize" { i64::MAX } else { 1 << 40 };
        let (key, value) = members[at].clone();
        let spoilt = match &value {
            // Definitions of nodes stay within what is simulated.
            _ if command == "blockdev-add" && &*key == "driver" => "nope".into(),
            Json::Str(_) if names => match self.wrong.below(4) {
                0 => "nope".into(),
                1 => "".into(),
                2 if &*key != "target" => Json::Int(7),
                // Another device may be one that the transaction backs up already.
                3 if !self.knobs.crashes && self.in_transaction && &*key == "device" => "none".into(),
                _ => self.other_name(),
            },
            Json::Int(_) | Json::Uint(_) if numbers => self.wrong.pick(&[
                Json::Int(-1),
                Json::Int(0),
                Json::Int(3),
                Json::Int(large),
                Json::Int(i64::MAX),
                Json::Str("x".into()),
            ]),
            Json::Bool(b) => self.wrong.pick(&[Json::Bool(!b), Json::Str("on".into()), Json::Null]),
            Json::List(_) if command == "block-dirty-bitmap-merge" => Json::list(vec![Json::Str("nope".into())]),
            _ => value,
        };
        members[at] = (key, spoilt);
        Json::Dict(Arc::new(members))
    }

    /// A name of something else.
    fn other_name(&mut self) -> Json {
        let mut names: Vec<Arc<str>> = Vec::new();
        for drive in &self.shape.drives {
            names.extend([drive.name.clone(), drive.node.clone()]);
            names.extend(drive.bitmaps.iter().cloned());
            names.extend(drive.debug.clone());
        }
        names.extend(self.shape.targets.iter().map(|target| target.node.clone()));
        names.extend(self.jobs.iter().map(|job| job.id.clone()));
        Json::Str(self.wrong.pick(&names))
    }
}
