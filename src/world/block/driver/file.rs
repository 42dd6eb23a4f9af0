//! Files of the simulated host as protocol nodes (`block/file-posix.c`).

use super::Driver;
use crate::base::errno::{Errno, Ret};
use crate::base::units::align_up;
use crate::block::qcow2::{Qcow2Answer, Qcow2Ask, Qcow2Call};
use crate::host::Frozen;
use crate::qmp::error::QmpError;
use crate::trace::{Level, RequestPhase};
use crate::world::World;
use crate::world::aio::device::{DeviceOp, DeviceRequest};
use crate::world::arena::NodeId;
use crate::world::block::filename::Described;
use crate::world::block::graph::Node;
use crate::world::block::io::copy_range::{CopyRange, CopyRangeFrame};
use crate::world::block::open::spec::DriverSpec;
use crate::world::frame::Flow;
use crate::world::value::{BlockStatus, Val};
use std::sync::Arc;

/// Unit in which the host's file system gives space, in bytes.
const HOST_BLOCK: u64 = 4096;

/// `BDRVRawState` of `file-posix.c`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileDriver {
    /// Name of the file on the simulated host.
    pub path: Arc<str>,
    /// The name it was opened by.
    pub filename: Arc<str>,
    /// `locking`: whether others on the host are kept away.
    pub locking: bool,
    /// `discard_nb_ok`, `discard_bytes_ok`: how many discards there were, and of how many bytes.
    pub discards: (u64, u64),
}

impl Driver {
    /// Its state, if it opens a file of the host.
    #[must_use]
    pub fn file(&self) -> Option<&FileDriver> {
        match self {
            Driver::File(file) => Some(file),
            _ => None,
        }
    }
}

impl Node {
    /// The state of its driver, if that opens a file of the host.
    #[must_use]
    pub fn file_driver(&self) -> Option<&FileDriver> {
        self.driver.as_ref().and_then(Driver::file)
    }
}

impl World {
    /// What the host does for a request, when it is done.
    pub(in crate::world) fn device_work(&mut self, request: &DeviceRequest) -> Val {
        let Some(node) = self.graph.nodes.get(request.node) else { return Val::err(Errno::EIO) };
        // The node may be about to go: a server of the simulated host still has a request for it.
        let Some(Driver::File(file)) = &node.driver else { return Val::Ret(Ok(())) };
        let path = file.path.clone();
        if self.trace.wants(Level::Io) {
            self.trace_device(request, RequestPhase::Complete(None));
        }
        if let Err(errno) = self.host_verdict(&path, request) {
            return Val::err(errno);
        }
        match &request.op {
            DeviceOp::Read => Val::Data(Ok(self.files.read_in(&path, request.offset, request.bytes))),
            DeviceOp::Write(data) => {
                self.files.pwrite(&path, request.offset, data);
                Val::Ret(Ok(()))
            }
            DeviceOp::Copy { from, at } => {
                Val::Ret(self.files.copy_range(from, *at, &path, request.offset, request.bytes))
            }
            DeviceOp::Zero { .. } => {
                self.files.zero(&path, request.offset, request.bytes);
                Val::Ret(Ok(()))
            }
            DeviceOp::Discard => {
                self.files.punch(&path, request.offset, request.bytes);
                if let Some(Driver::File(file)) = self.graph.nodes[request.node].driver.as_mut() {
                    file.discards = (file.discards.0 + 1, file.discards.1 + request.bytes);
                }
                Val::Ret(Ok(()))
            }
            DeviceOp::Truncate => {
                self.files.truncate(&path, request.offset);
                Val::Ret(Ok(()))
            }
            DeviceOp::Flush | DeviceOp::Nothing => Val::Ret(Ok(())),
        }
    }

    /// `raw_open_common`
    pub(in crate::world) fn open_host_file(
        &mut self,
        bs: NodeId,
        filename: &Arc<str>,
        locking: bool,
    ) -> Result<(), QmpError> {
        let fail = |errno: Errno| Err(QmpError::generic(not_opened(filename, errno)));
        if let Some(look) = self.files.look_at(filename) {
            let flags = &mut self.graph.nodes[bs].flags;
            match (look.write, flags.rdwr) {
                (Err(Errno::EACCES | Errno::EROFS), true) if flags.auto_read_only => flags.rdwr = false,
                (Err(errno), true) => return fail(errno),
                _ => {}
            }
            if let Err(errno) = look.read {
                return fail(errno);
            }
            if !look.is_regular {
                let text = format!("'file' driver requires '{filename}' to be a regular file");
                return Err(QmpError::generic(text));
            }
        }
        let path = self.files.key(filename);
        if !self.files.exists(&path) {
            return fail(Errno::ENOENT);
        }
        let node = &mut self.graph.nodes[bs];
        node.size = align_up(self.files.size(&path), 512);
        node.driver = Some(Driver::File(FileDriver { path, filename: filename.clone(), locking, discards: (0, 0) }));
        Ok(())
    }

    /// A name of the host that opening this node will look at: the file, or blkdebug's rules.
    pub(in crate::world) fn wants_host_file(&mut self, driver: &DriverSpec) -> bool {
        match driver {
            DriverSpec::File { filename, .. } => !self.files.look(filename, false),
            DriverSpec::Blkdebug { config: Some(config), .. } => !self.files.look(config, true),
            _ => false,
        }
    }

    /// `raw_co_block_status` of a host file, or what the block-status cache has: the last range that was found to be data. A write next
    /// to that range is not seen until somebody asks behind its end, and so a range of data may be told in two parts.
    pub(super) fn file_block_status(&mut self, node: NodeId, offset: u64, bytes: u64, want_zero: bool) -> BlockStatus {
        let n = &self.graph.nodes[node];
        let status = |data, pnum| BlockStatus { data, zero: !data, map: Some(offset), pnum, ..BlockStatus::default() };
        if let Some((start, end)) = n.block_status_cache
            && (start..end).contains(&offset)
        {
            return status(true, end - offset);
        }
        let Driver::File(file) = n.drv() else { unreachable!("only files have a cache") };
        if !want_zero {
            return status(true, bytes);
        }
        let (data, mut run) = self.files.status(&file.path, offset, bytes);
        if data {
            let left = self.files.size(&file.path).saturating_sub(offset);
            if run == bytes && left > bytes {
                run = self.files.status(&file.path, offset, left).1;
            }
            self.graph.nodes[node].block_status_cache = Some((offset, offset + run));
        }
        status(data, run)
    }

    /// `block/file-posix.c:raw_co_copy_range_from`: on to the target.
    pub(super) fn file_copy_range_from(&mut self, copy: CopyRange) -> Flow {
        self.seq([CopyRangeFrame::CopyRangeTo(copy).into()])
    }

    /// The name that it was opened by; QEMU's driver has none to give in its place.
    pub(super) fn file_refresh_filename(&self, node: NodeId, _: Described<'_>) -> Arc<str> {
        self.graph.nodes[node].file_driver().map_or_else(|| "".into(), |file| file.filename.clone())
    }

    /// `block/file-posix.c:raw_co_get_allocated_file_size`
    pub(super) fn file_allocated_size(&self, node: NodeId) -> Ret<u64> {
        let file = self.graph.nodes[node].file_driver().ok_or(Errno::ENOTSUP)?;
        Ok(align_up(self.files.allocated(&file.path), HOST_BLOCK))
    }

    /// The file; what a real one holds was not all read.
    pub(super) fn file_frozen(&self, node: NodeId) -> Frozen {
        let file = self.graph.nodes[node].file_driver().filter(|_| !self.files.is_connected());
        match file.and_then(|file| Some((file.path.clone(), self.files.get(&file.path)?.clone()))) {
            Some((path, file)) => Frozen::File { path, file },
            None => Frozen::Unknown,
        }
    }

    /// `block/file-posix.c:raw_co_copy_range_to`
    pub(super) fn file_copy_range_to(&mut self, copy: CopyRange) -> Flow {
        let Driver::File(file) = self.graph.nodes[copy.src].drv() else {
            return self.ret(Val::err(Errno::ENOTSUP));
        };
        let op = DeviceOp::Copy { from: file.path.clone(), at: copy.src_offset };
        self.device_submit(copy.dst, op, copy.dst_offset, copy.bytes)
    }

    /// The host's files as they would be if every open image wrote its caches now. The world stays as it is, and no fault rule
    /// sees it.
    #[must_use]
    pub fn flushed_files(&self) -> crate::host::HostFiles {
        let mut files = self.files.clone();
        for (id, node) in self.graph.nodes.iter() {
            let Some(Driver::Qcow2(state)) = &node.driver else { continue };
            if !node.flags.rdwr || node.dropped || node.file.is_none() || !state.q.has_dirty_caches() {
                continue;
            }
            let Some(path) = self.host_path(id) else { continue };
            let mut q = state.q.clone();
            let mut op = Qcow2Call::flush_to_os();
            let mut got = Qcow2Answer::Done;
            loop {
                got = match op.resume(&mut q, got) {
                    Qcow2Ask::Done(_) => break,
                    Qcow2Ask::Read { offset, len, .. } => Qcow2Answer::Data(files.pread(&path, offset, len)),
                    Qcow2Ask::Write { offset, data } => {
                        files.pwrite(&path, offset, &data);
                        Qcow2Answer::Done
                    }
                    Qcow2Ask::WriteZeroes { offset, len, .. } => {
                        files.zero(&path, offset, len);
                        Qcow2Answer::Done
                    }
                    Qcow2Ask::GetLength => Qcow2Answer::Number(files.size(&path)),
                    _ => Qcow2Answer::Done,
                };
            }
        }
        files
    }
}

/// Why a file is not opened (`qemu_open_internal`): a name may stand for a set of descriptors.
fn not_opened(filename: &str, errno: Errno) -> String {
    match filename.strip_prefix("/dev/fdset/").map(str::parse::<u32>) {
        Some(Err(_)) => format!("Could not parse fdset {filename}"),
        Some(Ok(set)) if errno == Errno::ENOENT => format!("Failed to find fdset /dev/fdset/{set}"),
        _ => format!("Could not open '{filename}': {errno}"),
    }
}
