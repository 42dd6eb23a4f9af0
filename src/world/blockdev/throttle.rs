//! Limits of drives (`block_set_io_throttle`, `-drive throttling.*`).

use crate::block::throttle::Limits;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::types::BlockIoThrottle;
use crate::world::World;
use crate::world::arena::{BackendId, Member};
use crate::world::block::drain::DrainFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// What a drive's limits are to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveLimits {
    blk: BackendId,
    pub(in crate::world) limits: Limits,
    group: Option<Arc<str>>,
}

/// The limits of `-drive`, by their names there.
///
/// # Errors
/// They contradict each other.
pub(in crate::world) fn drive_limits(given: &[(Arc<str>, u64)]) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for (name, value) in given {
        limits.set(name.strip_prefix("throttling.").unwrap_or(name), *value);
    }
    limits.check()?;
    Ok(limits)
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum DriveLimitsFrame {
    DriveLimits(Box<DriveLimits>),
}

impl DriveLimitsFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            DriveLimitsFrame::DriveLimits(wanted) => w.drive_limits(&wanted),
        }
    }
}

impl World {
    /// `qmp_block_set_io_throttle`. Leaves `Val::Done`.
    pub(in crate::world) fn block_set_io_throttle(&mut self, args: &BlockIoThrottle) -> Flow {
        let fail = |w: &mut World, err: QmpError| w.ret(Val::Done(Err(err)));
        let blk = match self.blk_of(args.device.as_ref(), args.id.as_ref()) {
            Ok(blk) => blk,
            Err(err) => return fail(self, err),
        };
        let Some(bs) = self.graph.blk_bs(blk) else {
            return fail(self, QmpError::generic("Device has no medium"));
        };
        let mut limits = Limits::default();
        for (i, bucket) in limits.buckets.iter_mut().enumerate() {
            // A negative number is a large one, and refused as such.
            bucket.avg = args.limits[i].cast_unsigned();
            bucket.max = args.extras[i].unwrap_or(0).cast_unsigned();
            bucket.burst_length = args.extras[6 + i].unwrap_or(1).cast_unsigned();
        }
        limits.op_size = args.extras[12].unwrap_or(0).cast_unsigned();
        if let Err(text) = limits.check() {
            return fail(self, QmpError::generic(text));
        }
        let known = self.throttling.group_of(Member::Backend(blk)).map(|group| group.name.clone());
        let group = match (&known, &args.group) {
            (None, None) => args.device.clone().or_else(|| args.id.clone()),
            (_, group) => group.clone(),
        };
        let leaves = known.is_some_and(|known| !limits.enabled() || group.as_ref().is_some_and(|name| *name != known));
        let set = DriveLimitsFrame::DriveLimits(Box::new(DriveLimits { blk, limits, group })).into();
        if leaves {
            // What waits is let go before the drive leaves its group.
            return self.seq([
                DrainFrame::DrainedBegin(bs).into(),
                set,
                Frame::KeepOver(Box::new(DrainFrame::DrainedEnd(bs).into())),
            ]);
        }
        self.seq([set])
    }

    /// `DriveLimitsFrame::DriveLimits`. Leaves `Val::Done`.
    pub(in crate::world) fn drive_limits(&mut self, wanted: &DriveLimits) -> Flow {
        let done = self.set_drive_limits(wanted.blk, wanted.limits, wanted.group.as_ref());
        self.ret(Val::Done(done))
    }

    /// `qmp_get_blk`
    ///
    /// # Errors
    /// There is no such drive or device, or both or none were named.
    pub(super) fn blk_of(&self, device: Option<&Arc<str>>, id: Option<&Arc<str>>) -> Result<BackendId, QmpError> {
        match (device, id) {
            (None, Some(id)) => self.blk_by_qdev_id(id),
            (Some(device), None) => self
                .graph
                .blk_by_name(device)
                .ok_or_else(|| QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{device}' not found"))),
            _ => Err(QmpError::generic("Need exactly one of 'device' and 'id'")),
        }
    }

    /// The limits of a drive, from the command line or by `block_set_io_throttle`.
    ///
    /// # Errors
    /// The limits contradict each other.
    pub(in crate::world) fn set_drive_limits(
        &mut self,
        blk: BackendId,
        limits: Limits,
        group: Option<&Arc<str>>,
    ) -> Result<(), QmpError> {
        limits.check().map_err(QmpError::generic)?;
        let who = Member::Backend(blk);
        let member = self.throttling.group_of(who).map(|known| known.name.clone());
        if limits.enabled() {
            match (member, group) {
                (None, group) => {
                    let name = group.cloned().unwrap_or_else(|| self.graph.backends[blk].name.clone());
                    self.throttle_register(who, &name);
                }
                (Some(known), Some(name)) if known != *name => {
                    self.throttle_unregister(who);
                    self.throttle_register(who, name);
                }
                _ => {}
            }
            self.throttle_config(who, limits);
        } else if member.is_some() {
            self.throttle_unregister(who);
        }
        Ok(())
    }
}
