//! Exports: nodes that clients outside of the process use (`block/export/export.c`, `nbd/server.c:nbd_export_create`).

pub mod client;
pub mod read;
pub mod server;
pub mod status;
pub mod trip;

use crate::base::Json;
use crate::base::id::id_wellformed;
use crate::bitmap::{BitmapId, CheckFlags};
use crate::nbd::{MAX_STRING_SIZE, flag};
use crate::qmp::error::QmpError;
use crate::qmp::types::{BitmapSource, BlockExportAdd, ExportType, RemoveMode};
use crate::quirk::Quirk;
use crate::world::World;
use crate::world::aio::queue::Bh;
use crate::world::aio::step::Cond;
use crate::world::arena::{Arena, BackendId, ConnId, ExportId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::open::active::ActiveFrame;
use crate::world::block::open::unsupported::not_simulated;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use client::ClientFrame;
use client::NbdClient;
use server::{NbdServer, ServerFrame, SocketHost};
use status::StatusFrame;
use std::sync::Arc;
use trip::TripFrame;

/// Exports, the NBD server and its clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exports {
    /// `block_exports`, newest first.
    pub list: Vec<ExportId>,
    /// Exports, also those that are about to be deleted.
    pub exports: Arena<ExportId, BlockExport>,
    /// `exports` of the NBD server: those that still have a name, oldest first.
    pub named: Vec<ExportId>,
    /// `nbd_server`
    pub server: Option<NbdServer>,
    /// Clients of the server.
    pub clients: Arena<ConnId, NbdClient>,
    /// Those for whose bytes a coroutine waits, the one that has waited longest first: where several can be read at once, it is found first.
    pub readers: Vec<ConnId>,
    /// The sockets of the host.
    pub host: SocketHost,
}

impl Default for Exports {
    fn default() -> Exports {
        Exports {
            list: Vec::new(),
            exports: Arena::unique(),
            named: Vec::new(),
            server: None,
            clients: Arena::unique(),
            readers: Vec::new(),
            host: SocketHost::default(),
        }
    }
}

/// A bitmap that is offered to clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExportedBitmap {
    /// The node that has it; it need not be the one that is exported.
    pub node: NodeId,
    /// `BdrvDirtyBitmap`, busy while it is exported.
    pub id: BitmapId,
    /// Clients ask for `qemu:dirty-bitmap:` and this.
    pub name: Arc<str>,
}

/// `NBDExport`, and the `BlockExport` in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockExport {
    /// Its name among exports.
    pub id: Arc<str>,
    /// `BlockExport.blk`, by which requests of clients reach the node.
    pub blk: BackendId,
    /// References: the user's, and one of each client.
    pub refcount: u32,
    /// Nobody asked it to go yet.
    pub user_owned: bool,
    /// What clients call it.
    pub name: Arc<str>,
    /// What they are told of it.
    pub description: Option<Arc<str>>,
    /// `nbdflags`
    pub flags: u16,
    /// Its length, in whole sectors.
    pub size: u64,
    /// `export_bitmaps`
    pub bitmaps: Vec<ExportedBitmap>,
    /// Whether `qemu:allocation-depth` is offered.
    pub allocation_depth: bool,
    /// The backend whose medium takes the export with it.
    pub eject_notifier_blk: Option<BackendId>,
    /// Its clients that have negotiated, oldest first.
    pub clients: Vec<ConnId>,
}

/// An export that is being added.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Adding {
    args: BlockExportAdd,
    blk: BackendId,
    eject: Option<BackendId>,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ExportFrame {
    /// `blk_exp_add`, once the node is active.
    ExportAdd(NodeId, Box<BlockExportAdd>, Option<BackendId>),
    /// The backend is attached, or not.
    ExportAttached(Box<Adding>),
    /// `blk_exp_delete_bh`, after the backend has gone.
    ExportDeleted(ExportId),
    CloseAllExports,
    Client(ClientFrame),
    Server(ServerFrame),
    Trip(TripFrame),
    Status(StatusFrame),
}

impl ExportFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ExportFrame::ExportAdd(bs, args, eject) => w.export_add(bs, *args, eject),
            ExportFrame::ExportAttached(adding) => w.export_attached(*adding),
            ExportFrame::ExportDeleted(export) => w.export_deleted(export),
            ExportFrame::CloseAllExports => w.blk_exp_close_all(),
            ExportFrame::Client(frame) => frame.run(w),
            ExportFrame::Server(frame) => frame.run(w),
            ExportFrame::Trip(frame) => frame.run(w),
            ExportFrame::Status(frame) => frame.run(w),
        }
    }
}

impl World {
    /// `qmp_block_export_add`. Leaves `Val::Done`.
    pub(in crate::world) fn block_export_add(&mut self, args: &BlockExportAdd) -> Flow {
        self.blk_exp_add(args.clone(), None)
    }

    /// `blk_exp_add`. Leaves `Val::Done`.
    fn blk_exp_add(&mut self, args: BlockExportAdd, eject: Option<BackendId>) -> Flow {
        let bs = match self.blk_exp_checks(&args) {
            Ok(bs) => bs,
            Err(err) => return self.ret(Val::Done(Err(err))),
        };
        if args.base.allow_inactive != Some(true) && self.graph.any_inactive() {
            return self.seq([
                ActiveFrame::Activate(bs).into(),
                Frame::if_ok([ExportFrame::ExportAdd(bs, Box::new(args), eject).into()]),
            ]);
        }
        self.export_add(bs, args, eject)
    }

    /// The rest of `blk_exp_add`: the export has a backend of its own.
    fn export_add(&mut self, bs: NodeId, args: BlockExportAdd, eject: Option<BackendId>) -> Flow {
        let writes = if args.base.writable == Some(true) { perm::WRITE } else { 0 };
        let blk = self.blk_new("".into(), perm::CONSISTENT_READ | writes, perm::ALL);
        let backend = &mut self.graph.backends[blk];
        backend.write_cache = args.base.writethrough != Some(true);
        backend.force_allow_inactivate = args.base.allow_inactive == Some(true);
        self.seq([
            BackendFrame::BlkInsertBs(blk, bs).into(),
            ExportFrame::ExportAttached(Box::new(Adding { args, blk, eject })).into(),
        ])
    }

    /// What `blk_exp_add` looks at before it makes a backend. Gives the node.
    fn blk_exp_checks(&self, args: &BlockExportAdd) -> Result<NodeId, QmpError> {
        if args.base.kind != ExportType::Nbd {
            return Err(not_simulated(&format!("export type {}", args.base.kind.name())));
        }
        if !id_wellformed(&args.base.id) {
            return Err(QmpError::generic("Invalid block export id"));
        }
        if self.blk_exp_find(&args.base.id).is_some() {
            return Err(QmpError::generic(format!("Block export id '{}' is already in use", args.base.id)));
        }
        let bs = self.bdrv_lookup_bs(None, Some(&args.base.node_name))?;
        if args.base.writable == Some(true) && !self.graph.nodes[bs].flags.rdwr {
            return Err(QmpError::generic("Cannot export read-only node as writable"));
        }
        if let Some(thread) = &args.base.iothread
            && self.machine.object(thread).is_none_or(|object| object.kind != "iothread")
        {
            return Err(QmpError::generic(format!("iothread \"{thread}\" not found")));
        }
        Ok(bs)
    }

    /// `blk_exp_find`
    fn blk_exp_find(&self, id: &str) -> Option<ExportId> {
        self.exports.list.iter().copied().find(|export| *self.exports.exports[*export].id == *id)
    }

    /// The end of `blk_exp_add`: `nbd_export_create`.
    fn export_attached(&mut self, adding: Adding) -> Flow {
        let blk = adding.blk;
        if let Err(err) = self.take_done() {
            self.graph.backends.remove(blk);
            return self.ret(Val::Done(Err(err)));
        }
        let created = self.nbd_export_create(&adding);
        if created.is_ok() {
            return self.ret(Val::Done(created));
        }
        self.seq([BackendFrame::BlkUnref(blk).into(), Frame::Give(Box::new(Val::Done(created)))])
    }

    /// `nbd_export_create`
    fn nbd_export_create(&mut self, adding: &Adding) -> Result<(), QmpError> {
        let (args, blk) = (&adding.args, adding.blk);
        let Some(server) = &self.exports.server else { return Err(QmpError::generic("NBD server not running")) };
        let multi_conn = server.max_connections != 1;
        let name = args.nbd.name.clone().unwrap_or_else(|| args.base.node_name.clone());
        if name.len() > MAX_STRING_SIZE {
            return Err(QmpError::generic(format!("export name '{name}' too long")));
        }
        if let Some(description) = args.nbd.description.as_ref().filter(|text| text.len() > MAX_STRING_SIZE) {
            return Err(QmpError::generic(format!("description '{description}' too long")));
        }
        if self.exports.named.iter().any(|export| self.exports.exports[*export].name == name) {
            return Err(QmpError::generic(format!("NBD server already has export named '{name}'")));
        }
        let bs = self.graph.blk_bs(blk).expect("it was attached");
        if self.graph.nodes[bs].dropped {
            return Err(QmpError::generic("Failed to determine the NBD export's length: No medium found"));
        }
        let size = self.bdrv_getlength(bs) / 512 * 512;
        let (taken, shared) = (self.graph.backends[blk].perm, self.graph.backends[blk].shared);
        self.blk_set_perm(blk, taken, shared & !perm::RESIZE)?;
        let writable = args.base.writable == Some(true);
        let bitmaps = self.bitmaps_to_export(bs, args.nbd.bitmaps.as_deref().unwrap_or_default(), writable)?;
        for bitmap in &bitmaps {
            self.set_bitmap_busy(bitmap, true);
            if self.holds_nodes_of_bitmaps() {
                self.bdrv_ref(bitmap.node);
            }
        }
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        if multi_conn {
            flags |= flag::CAN_MULTI_CONN;
        }
        flags |= match writable {
            true => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
            false => flag::READ_ONLY,
        };
        let export = self.exports.exports.insert(BlockExport {
            id: args.base.id.clone(),
            blk,
            refcount: 1,
            user_owned: true,
            name,
            description: args.nbd.description.clone(),
            flags,
            size,
            bitmaps,
            allocation_depth: args.nbd.allocation_depth == Some(true),
            eject_notifier_blk: adding.eject,
            clients: Vec::new(),
        });
        let backend = &mut self.graph.backends[blk];
        backend.disable_request_queuing = true;
        backend.export = Some(export);
        self.exports.list.insert(0, export);
        self.exports.named.push(export);
        Ok(())
    }

    /// The bitmaps that an export offers.
    fn bitmaps_to_export(
        &self,
        bs: NodeId,
        wanted: &[BitmapSource],
        writable: bool,
    ) -> Result<Vec<ExportedBitmap>, QmpError> {
        let mut bitmaps = Vec::new();
        for source in wanted {
            let (node, id, name) = match source {
                BitmapSource::Local(name) => {
                    let (node, id) = self
                        .bitmap_down_the_chain(bs, name)
                        .ok_or_else(|| QmpError::generic(format!("Bitmap '{name}' is not found")))?;
                    let enabled = self.graph.nodes[node].bitmaps.get(id).is_some_and(|bitmap| bitmap.enabled());
                    if !writable && enabled && self.is_writable(node) {
                        let text = format!("Enabled bitmap '{name}' incompatible with readonly export");
                        return Err(QmpError::generic(text));
                    }
                    (node, id, name)
                }
                BitmapSource::External(at) => {
                    let (node, id) = self.bitmap_lookup(at)?;
                    (node, id, &at.name)
                }
            };
            self.bitmap_check(node, id, CheckFlags::ALLOW_RO)?;
            bitmaps.push(ExportedBitmap { node, id, name: name.clone() });
        }
        Ok(bitmaps)
    }

    /// The node at or below `bs` that has a bitmap of that name.
    fn bitmap_down_the_chain(&self, bs: NodeId, name: &str) -> Option<(NodeId, BitmapId)> {
        let mut node = Some(bs);
        while let Some(bs) = node {
            if let Some(id) = self.graph.nodes[bs].bitmaps.find(name) {
                return Some((bs, id));
            }
            node = self.graph.filter_or_cow_bs(bs);
        }
        None
    }

    /// `bdrv_is_writable`
    fn is_writable(&self, node: NodeId) -> bool {
        self.graph.nodes[node].flags.writable()
    }

    /// Whether an export holds the nodes whose bitmaps it offers. QEMU's does not.
    fn holds_nodes_of_bitmaps(&self) -> bool {
        !self.quirks.has(Quirk::NbdBitmapOutlivesItsNode)
    }

    /// A node is closed, and a bitmap of it is in use: by an export, or by a job.
    pub(in crate::world) fn busy_bitmap_goes(&self, node: NodeId, name: &str) -> ! {
        let offers = |export: &BlockExport| export.bitmaps.iter().any(|bitmap| bitmap.node == node);
        let page = match self.exports.exports.iter().any(|(_, export)| offers(export)) {
            true => "node-of-an-exported-bitmap",
            false => "overlay-below-a-backup-filter",
        };
        Self::qemu_is_known_to_abort(page, format!("bitmap {name}"), "bdrv_release_dirty_bitmap_locked: it is in use")
    }

    fn set_bitmap_busy(&mut self, bitmap: &ExportedBitmap, busy: bool) {
        if let Some(node) = self.graph.nodes.get_mut(bitmap.node)
            && let Some(found) = node.bitmaps.get_mut(bitmap.id)
        {
            found.set_busy(busy);
        }
    }

    /// `qmp_block_export_del`, `qmp_nbd_server_remove`. Leaves `Val::Done`.
    pub(in crate::world) fn block_export_del(&mut self, id: &str, mode: Option<RemoveMode>) -> Flow {
        let checked = match self.blk_exp_find(id) {
            None => Err(format!("Export '{id}' is not found")),
            Some(export) => {
                let exp = &self.exports.exports[export];
                if !exp.user_owned {
                    Err(format!("Export '{id}' is already shutting down"))
                } else if mode != Some(RemoveMode::Hard) && exp.refcount > 1 {
                    Err(format!("export '{id}' still in use"))
                } else {
                    Ok(export)
                }
            }
        };
        let done = checked.map(|export| self.blk_exp_request_shutdown(export)).map_err(QmpError::generic);
        self.nbd_wake_shut();
        self.ret(Val::Done(done))
    }

    /// `blk_exp_request_shutdown`, with `nbd_export_request_shutdown`. Whoever reads from its clients is still to be woken.
    pub(in crate::world) fn blk_exp_request_shutdown(&mut self, export: ExportId) {
        if !self.exports.exports[export].user_owned {
            return;
        }
        for client in self.exports.exports[export].clients.clone() {
            self.client_close_unwoken(client);
        }
        self.exports.named.retain(|named| *named != export);
        self.exports.exports[export].user_owned = false;
        self.blk_exp_unref(export);
    }

    /// `blk_exp_unref`
    pub(in crate::world) fn blk_exp_unref(&mut self, export: ExportId) {
        let exp = &mut self.exports.exports[export];
        assert!(exp.refcount > 0, "{export:?} has no reference left");
        exp.refcount -= 1;
        if exp.refcount == 0 {
            self.bh_schedule(Bh::BlkExpDelete(export));
        }
    }

    /// `blk_exp_delete_bh`
    pub(in crate::world) fn blk_exp_delete(&mut self, export: ExportId) -> Flow {
        self.exports.list.retain(|listed| *listed != export);
        let exp = &self.exports.exports[export];
        assert!(exp.clients.is_empty(), "{export:?} still has clients");
        let blk = exp.blk;
        let bitmaps = exp.bitmaps.clone();
        for bitmap in &bitmaps {
            self.set_bitmap_busy(bitmap, false);
        }
        let backend = &mut self.graph.backends[blk];
        backend.disable_request_queuing = false;
        backend.export = None;
        self.push(ExportFrame::ExportDeleted(export).into());
        if self.holds_nodes_of_bitmaps() {
            for bitmap in bitmaps {
                self.push(GraphFrame::BdrvUnref(bitmap.node).into());
            }
        }
        self.seq([BackendFrame::BlkUnref(blk).into()])
    }

    /// The end of `blk_exp_delete_bh`.
    fn export_deleted(&mut self, export: ExportId) -> Flow {
        let exp = self.exports.exports.remove(export).expect("it is deleted once");
        self.emit("BLOCK_EXPORT_DELETED", Json::dict(vec![("id", Json::Str(exp.id))]));
        Flow::Go
    }

    /// `blk_exp_close_all`
    fn blk_exp_close_all(&mut self) -> Flow {
        for export in self.exports.list.clone() {
            self.blk_exp_request_shutdown(export);
        }
        self.nbd_wake_shut();
        if self.exports.list.is_empty() {
            return Flow::Go;
        }
        self.seq([Frame::Poll(Cond::Exports)])
    }

    /// `nbd_eject_notifier`: the medium of a backend goes, and takes exports with it.
    pub(in crate::world) fn exports_eject(&mut self, blk: BackendId) {
        let notified = |export: &ExportId| self.exports.exports[*export].eject_notifier_blk == Some(blk);
        for export in self.exports.list.iter().copied().filter(notified).collect::<Vec<_>>() {
            self.blk_exp_request_shutdown(export);
        }
        self.nbd_wake_shut();
    }

    /// `qmp_query_block_exports`
    pub(in crate::world) fn query_block_exports(&self) -> Json {
        let info = |export: &ExportId| {
            let exp = &self.exports.exports[*export];
            let node = self.graph.blk_bs(exp.blk).map(|bs| self.graph.nodes[bs].node_name.clone());
            Json::dict(vec![
                ("node-name", Json::Str(node.unwrap_or_default())),
                ("shutting-down", (!exp.user_owned).into()),
                ("type", "nbd".into()),
                ("id", Json::Str(exp.id.clone())),
            ])
        };
        Json::list(self.exports.list.iter().map(info).collect())
    }
}
