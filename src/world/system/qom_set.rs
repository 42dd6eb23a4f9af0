//! `qom-set`: properties that can be set while the process runs, above all the disk of a device
//! (`hw/core/qdev-properties-system.c:set_drive_helper`, `block.c:bdrv_replace_child_bs`).

use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::BackendId;
use crate::world::block::drain::DrainFrame;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::system::machine::in_range;
use crate::world::value::Val;
use std::sync::Arc;

/// Properties of objects that may change.
const CHANGEABLE: [&str; 6] =
    ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch", "thread-pool-min", "thread-pool-max"];

impl World {
    /// `qmp_qom_set`. Leaves `Val::Done`.
    pub(in crate::world) fn qom_set(&mut self, path: &str, property: &str, value: &Json) -> Flow {
        let there = match self.qom_get(path, property) {
            Err(err) if !err.desc.starts_with("not simulated") && !err.desc.ends_with("is not readable") => Err(err),
            _ => Ok(()),
        };
        if let Err(err) = there {
            return self.ret(Val::Done(Err(err)));
        }
        let name = path.rsplit('/').find(|step| *step != "virtio-backend").unwrap_or(path).to_owned();
        let backend = self.machine.device(&name).map(|device| (device.backend, device.driver.clone()));
        match (backend, property) {
            (Some((Some(blk), driver)), "drive") if !driver.starts_with("usb-storage") => self.set_drive(blk, value),
            (Some((None, _)), "drive") => self.ret(Val::Done(Err(
                crate::world::block::open::unsupported::not_simulated("qom-set drive of a device without one"),
            ))),
            (Some(_), "guest-stats-polling-interval") => self.ret(Val::Done(Ok(()))),
            (Some((_, driver)), _) => {
                let kind = super::qom::type_of(&driver);
                let text = format!(
                    "Attempt to set property '{property}' on device '{name}' (type '{kind}') after it was realized"
                );
                self.ret(Val::Done(Err(QmpError::generic(text))))
            }
            (None, _) if CHANGEABLE.contains(&property) => {
                let done = self.set_number(&name, property, value);
                self.ret(Val::Done(done))
            }
            (None, _) => self.ret(Val::Done(Err(crate::world::block::open::unsupported::not_simulated(&format!(
                "qom-set {property}"
            ))))),
        }
    }

    /// A number of an iothread.
    fn set_number(&mut self, id: &str, property: &str, value: &Json) -> Result<(), QmpError> {
        let Json::Int(number) = value else {
            return Err(QmpError::generic(format!("Invalid parameter type for '{property}', expected: integer")));
        };
        in_range(property, Some(*number))?;
        let object = self.machine.objects.iter_mut().find(|object| &*object.id == id);
        for (name, old) in object.into_iter().flat_map(|object| &mut object.numbers) {
            if *name == property {
                *old = *number;
            }
        }
        Ok(())
    }

    /// `set_drive_helper` of a device that has a backend: the backend gets another node.
    fn set_drive(&mut self, blk: BackendId, value: &Json) -> Flow {
        let fail = |w: &mut World, text: String| w.ret(Val::Done(Err(QmpError::generic(text))));
        let Json::Str(name) = value else {
            return fail(self, "Invalid parameter type for 'drive', expected: string".to_owned());
        };
        let new = match self.bdrv_lookup_bs(None, Some(name)) {
            Ok(new) => new,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        let Some(old) = self.graph.blk_bs(blk) else {
            Self::qemu_is_known_to_segfault(
                "qom-set-same-drive",
                self.blk_subject(blk),
                "bdrv_replace_child_bs: the drive has no medium",
            );
        };
        if old == new {
            Self::qemu_is_known_to_abort(
                "qom-set-same-drive",
                self.blk_subject(blk),
                "bdrv_replace_child_noperm: it has this node already",
            );
        }
        self.bdrv_ref(old);
        self.seq([
            DrainFrame::DrainedBegin(old).into(),
            DrainFrame::DrainedBegin(new).into(),
            GraphLockFrame::GraphWrlockOnly.into(),
            EdgesFrame::ReplaceRoot { blk, new }.into(),
            Frame::KeepOver(Box::new(GraphLockFrame::GraphWrunlock.into())),
            Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(old).into())),
            Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(new).into())),
            Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(old).into())),
        ])
    }

    fn blk_subject(&self, blk: BackendId) -> String {
        let backend = &self.graph.backends[blk];
        let name: Arc<str> = backend.dev.clone().unwrap_or_else(|| backend.name.clone());
        format!("device {name}")
    }
}
