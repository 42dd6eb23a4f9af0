//! Devices that come and go while the process runs: `device_add`, `device_del` (`system/qdev-monitor.c`, `hw/core/qdev.c`).

use super::machine::Device;
use crate::base::Json;
use crate::base::time::Span;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::names::is_device_model;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, JobId};
use crate::world::block::backend::{BackendFrame, BlkRequest};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::job::Job;
use crate::world::job::txn::TxnFrame;
use crate::world::value::Val;
use std::sync::Arc;

/// `BDRV_SECTOR_SIZE`
const SECTOR: u64 = 512;

/// When the last reference to a device is given up: another thread does that, when all have let go of it.
const GRACE: Span = Span::from_millis(10);

/// `device_add`, carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plugged {
    device: Device,
    blk: BackendId,
    /// The backend is the device's own, made for it.
    own: bool,
}

/// Options as `qemu_opts_from_qdict` has them: texts, and nothing else.
fn as_texts(options: &Json) -> Json {
    let Json::Dict(members) = options else { return options.clone() };
    let text = |value: &Json| match value {
        Json::Str(text) => Some(text.clone()),
        Json::Bool(on) => Some(if *on { "on" } else { "off" }.into()),
        Json::Int(number) => Some(number.to_string().into()),
        Json::Uint(number) => Some(number.to_string().into()),
        Json::Number(number) => Some(number.clone()),
        _ => None,
    };
    let kept = members.iter().filter(|(key, value)| &**key != "id" || value.as_str().is_some());
    Json::Dict(kept.filter_map(|(key, value)| Some((key.clone(), Json::Str(text(value)?)))).collect::<Vec<_>>().into())
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum HotplugFrame {
    DevicePlugged(Box<Plugged>),
    DeviceLooked(Box<Plugged>),
    DeviceUnplugged(Box<(Plugged, QmpError)>),
    UnplugOnReset,
    MarkAutoDel(BackendId),
    ReleaseDrive(BackendId),
    Unlocked(BackendId),
    DeviceGone { id: Option<Arc<str>>, path: Arc<str>, inner: bool },
}

impl HotplugFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            HotplugFrame::DevicePlugged(plugged) => w.device_plugged(*plugged),
            HotplugFrame::DeviceLooked(plugged) => w.device_attach_plugged(*plugged),
            HotplugFrame::DeviceUnplugged(unplugged) => {
                let (plugged, err) = *unplugged;
                w.device_refused(&plugged, err)
            }
            HotplugFrame::UnplugOnReset => w.unplug_on_reset(),
            HotplugFrame::MarkAutoDel(blk) => w.mark_auto_del(blk),
            HotplugFrame::ReleaseDrive(blk) => w.release_drive(blk),
            HotplugFrame::Unlocked(blk) => {
                let release = HotplugFrame::ReleaseDrive(blk).into();
                w.co_call_main_loop(release, "the main loop to let go of the big lock")
            }
            HotplugFrame::DeviceGone { id, path, inner } => w.device_gone(id, &path, inner),
        }
    }
}

impl World {
    /// `qmp_device_add`. Leaves `Val::Done`.
    pub(in crate::world) fn device_add(&mut self, options: &Json, texts: bool) -> Flow {
        if texts || self.quirks.since(Change::DeviceAddTyped) {
            return self.qdev_device_add(options, texts);
        }
        let options = as_texts(options);
        let used = options.get("id").and_then(Json::as_str).filter(|id| self.machine.device(id).is_some());
        if let Some(id) = used {
            let text = format!("Duplicate ID '{id}' for device");
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        self.qdev_device_add(&options, true)
    }

    /// `qdev_device_add_from_qdict`
    fn qdev_device_add(&mut self, options: &Json, texts: bool) -> Flow {
        let fail = |w: &mut World, text: String| w.ret(Val::Done(Err(QmpError::generic(text))));
        if let Some(model) = options.get("driver").and_then(Json::as_str) {
            if !is_device_model(model) {
                return fail(self, format!("'{model}' is not a valid device model name"));
            }
            if let Some(bus) = self.cold_bus(model) {
                return fail(self, format!("Bus '{bus}' does not support hotplugging"));
            }
        }
        let (device, drive) = match self.device_new(options, texts) {
            Ok((device, drive)) => (Device { hotplugged: true, ..device }, drive),
            Err(text) => return fail(self, text),
        };
        let Some(drive) = drive else {
            let done = self.device_attach(device, None).map_err(QmpError::generic);
            return self.ret(Val::Done(done));
        };
        if let Some(blk) = self.graph.blk_by_name(&drive) {
            return self.device_realize(Plugged { device, blk, own: false });
        }
        let bs = self.graph.find_node(&drive).expect("it was there when the device was looked at");
        let blk = self.blk_new("".into(), 0, perm::ALL);
        self.seq([
            BackendFrame::BlkInsertBs(blk, bs).into(),
            HotplugFrame::DevicePlugged(Box::new(Plugged { device, blk, own: true })).into(),
        ])
    }

    /// A device whose backend has its node.
    fn device_plugged(&mut self, plugged: Plugged) -> Flow {
        match self.take_done() {
            Ok(()) => self.device_realize(plugged),
            Err(err) => self.device_refused(&plugged, err),
        }
    }

    /// The disk of a device (`scsi_realize`, `ide_dev_initfn`, `virtio_blk_device_realize`): the first sector is looked at before the
    /// permissions are taken, but for virtio's.
    fn device_realize(&mut self, plugged: Plugged) -> Flow {
        let blk = plugged.blk;
        let look = self.first_look(&plugged.device, blk);
        if !plugged.device.is_virtio_disk() {
            self.push(HotplugFrame::DeviceLooked(Box::new(plugged)).into());
            look.into_iter().for_each(|look| self.push(look));
            return Flow::Go;
        }
        match self.device_attach(plugged.device.clone(), Some(blk)).map_err(QmpError::generic) {
            Ok(()) => {
                self.device_reset(&plugged);
                look.into_iter().for_each(|look| self.push(look));
                Flow::Go
            }
            Err(err) => self.device_refused(&plugged, err),
        }
    }

    /// What is plugged in is reset, and its requests are waited for, which drains its node (`scsi_device_purge_requests`,
    /// `virtio_blk_reset`). The jobs there pause.
    fn device_reset(&mut self, plugged: &Plugged) {
        self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
        if plugged.device.drains_at_reset() {
            self.push(BackendFrame::BlkDrain(plugged.blk).into());
        }
    }

    /// The read of the first sector, where a device looks at it. What comes of it is of no consequence. Nobody looks at a disk that
    /// is another device's.
    pub(super) fn first_look(&self, device: &Device, blk: BackendId) -> Option<Frame> {
        let free = self.graph.backends[blk].dev.is_none() && self.graph.blk_bs(blk).is_some();
        let request = Box::new(BlkRequest::Read { offset: 0, bytes: SECTOR });
        (free && device.looks_at_disk()).then(|| Frame::RunCo(Box::new(BackendFrame::BlkCo { blk, request }.into())))
    }

    fn device_attach_plugged(&mut self, plugged: Plugged) -> Flow {
        match self.device_attach(plugged.device.clone(), Some(plugged.blk)).map_err(QmpError::generic) {
            Ok(()) => {
                if let Some(err) = self.refused_by_bus(&plugged) {
                    self.machine.devices.pop();
                    let blk = plugged.blk;
                    // As it is reset, and when it is taken away again.
                    return self.seq([
                        BackendFrame::BlkDrain(blk).into(),
                        BackendFrame::BlkDrain(blk).into(),
                        HotplugFrame::DeviceUnplugged(Box::new((plugged, err))).into(),
                    ]);
                }
                self.device_reset(&plugged);
                Flow::Go
            }
            Err(err) => self.device_refused(&plugged, err),
        }
    }

    /// `virtio_scsi_hotplug`: the controller takes no node that a job uses.
    fn refused_by_bus(&self, plugged: &Plugged) -> Option<QmpError> {
        let looks =
            plugged.own && plugged.device.driver.starts_with("scsi-") && !self.quirks.since(Change::ScsiDiskOfJobNodes);
        self.op_blocked(self.graph.blk_bs(plugged.blk).filter(|_| looks)?)
    }

    fn device_refused(&mut self, plugged: &Plugged, err: QmpError) -> Flow {
        if !plugged.own {
            return self.ret(Val::Done(Err(err)));
        }
        self.graph.backends[plugged.blk].dev = None;
        self.push(Frame::Give(Box::new(Val::Done(Err(err)))));
        self.seq([BackendFrame::BlkUnref(plugged.blk).into()])
    }

    /// The bus of a model that can't be plugged in.
    fn cold_bus(&self, model: &str) -> Option<&'static str> {
        let pc = self.machine.is_pc();
        if model.starts_with("isa-") {
            return pc.then_some("isa.0");
        }
        (model.starts_with("ide-") && pc).then_some(if self.machine.is_q35() { "ide.5" } else { "ide.1" })
    }

    /// `qmp_device_del`. Leaves `Val::Done`.
    pub(in crate::world) fn device_del(&mut self, id: &str) -> Flow {
        let fail = |w: &mut World, err: QmpError| w.ret(Val::Done(Err(err)));
        let name = id.strip_prefix("/machine/peripheral/").unwrap_or(id);
        let Some(at) = self.machine.devices.iter().position(|device| device.id.as_deref() == Some(name)) else {
            if matches!(id, "/" | "/machine" | "/objects" | "/chardevs" | "/machine/peripheral" | "/machine/unattached")
            {
                return fail(self, QmpError::generic(format!("{id} is not a device")));
            }
            return fail(self, QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{id}' not found")));
        };
        let device = &mut self.machine.devices[at];
        if device.leaving {
            return fail(self, QmpError::generic(format!("Device {id} is already in the process of unplug")));
        }
        if device.asks_guest() {
            // The guest has to let it go; no guest runs, but a reset has the same effect.
            device.leaving = true;
            return self.ret(Val::Done(Ok(())));
        }
        self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
        self.unplug(at, self.quirks.since(Change::UnplugsAtOnce))
    }

    /// The devices that a guest was asked to let go are gone after a reset (`acpi_pcihp_reset`).
    fn unplug_on_reset(&mut self) -> Flow {
        match self.machine.devices.iter().position(|device| device.leaving) {
            Some(at) => {
                self.push(HotplugFrame::UnplugOnReset.into());
                self.unplug(at, false)
            }
            None => Flow::Go,
        }
    }

    /// `qdev_simple_device_unplug_cb`, `scsi_qdev_unrealize`, `virtio_blk_device_unrealize`: requests of the disk end, and so do jobs
    /// where it is a drive; its backend goes with the last reference to the device, and then whoever watches is told. `at_once`: before the
    /// command that unplugs it has its reply, as the thread that gives up references is quick.
    fn unplug(&mut self, at: usize, at_once: bool) -> Flow {
        let device = self.machine.devices.remove(at);
        let path: Arc<str> = format!("/machine/peripheral/{}", device.id.as_deref().unwrap_or_default()).into();
        let inner = device.is_virtio_disk();
        let gone: Frame = HotplugFrame::DeviceGone { id: device.id, path, inner }.into();
        let backend = device.backend.filter(|blk| self.graph.backends.get(*blk).is_some());
        match backend {
            Some(blk) if at_once => self.seq([
                BackendFrame::BlkDrain(blk).into(),
                HotplugFrame::MarkAutoDel(blk).into(),
                HotplugFrame::ReleaseDrive(blk).into(),
                gone,
            ]),
            None if at_once => self.seq([gone]),
            Some(blk) => {
                let co = self.co_create([gone, HotplugFrame::Unlocked(blk).into(), Frame::Sleep(GRACE)]);
                self.seq([BackendFrame::BlkDrain(blk).into(), HotplugFrame::MarkAutoDel(blk).into(), Frame::Enter(co)])
            }
            None => {
                let co = self.co_create([gone, Frame::Sleep(GRACE)]);
                self.seq([Frame::Enter(co)])
            }
        }
    }

    /// `blockdev_mark_auto_del`: jobs on the node of a `-drive` are cancelled, but for those whose coroutine has ended. Unlike in QEMU,
    /// these can still be finalized: there the process aborts then, as the drained section of their node has gone with the drive
    /// (`docs/findings/unplugged-while-pending.md`).
    fn mark_auto_del(&mut self, blk: BackendId) -> Flow {
        let Some(backend) = self.graph.backends.get(blk).filter(|backend| !backend.name.is_empty()) else {
            return Flow::Go;
        };
        let Some(bs) = backend.root.map(|root| self.graph.children[root].bs) else { return Flow::Go };
        let has_bdrv = |job: &Job| job.nodes.iter().any(|edge| self.graph.children[*edge].bs == bs);
        let to_cancel = |job: &JobId| {
            let job = &self.jobs[*job];
            !job.cancelled && !job.deferred_to_main_loop && job.job_type.is_block_job() && has_bdrv(job)
        };
        match self.jobs.list.iter().copied().find(to_cancel) {
            Some(job) => self.seq([TxnFrame::JobCancel(job, false).into(), HotplugFrame::MarkAutoDel(blk).into()]),
            None => Flow::Go,
        }
    }

    /// `release_drive`, which `call_rcu_thread` calls with the big lock held. The main thread lets go of that in its own loop, and not
    /// while a command polls. Until then the drive is in use, and no other device gets it.
    fn release_drive(&mut self, blk: BackendId) -> Flow {
        self.graph.backends[blk].dev = None;
        self.seq([BackendFrame::BlkUnref(blk).into()])
    }

    /// `device_finalize`
    fn device_gone(&mut self, id: Option<Arc<str>>, path: &str, inner: bool) -> Flow {
        if inner {
            self.emit("DEVICE_DELETED", Json::dict(vec![("path", format!("{path}/virtio-backend").into())]));
        }
        let mut members = Vec::new();
        if let Some(id) = id {
            members.push(("device", Json::Str(id)));
        }
        members.push(("path", path.into()));
        self.emit("DEVICE_DELETED", Json::dict(members));
        Flow::Go
    }
}
