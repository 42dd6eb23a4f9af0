//! Which method of [`World`] each frame runs.

use super::World;
use super::aio::{Cond, Wait};
use super::frame::{Flow, Frame};
use super::value::Val;
use crate::base::errno::Errno;
use crate::block::accounting::AcctType;
use crate::block::qemu_io_text::Done;

impl Frame {
    /// Runs the frame.
    #[expect(clippy::too_many_lines, reason = "one line for each frame")]
    pub(super) fn run(self, w: &mut World) -> Flow {
        match self {
            Frame::Poll(_) => unreachable!("only the main thread polls, and its step looks for this frame itself"),
            Frame::BhLoop(ctx) => w.bh_loop(ctx),
            Frame::Handlers => w.handlers(),
            Frame::RunTimers => w.run_timers(),
            Frame::Complete(id) => w.complete(id),
            Frame::More | Frame::MoreHere | Frame::MoreBetween => {
                unreachable!("`World::step` asks whether there is more")
            }
            Frame::Enter(co) => {
                w.aio_co_wake(co);
                Flow::Go
            }
            Frame::Wake(co) => {
                w.aio_co_wake(co);
                Flow::Go
            }
            Frame::WakeWithReg(co) => {
                let value = std::mem::take(&mut w.reg);
                w.wake_with(co, value);
                Flow::Go
            }
            Frame::CoReturn(cell) => {
                w.aio.cells[cell.0 as usize] = Some(std::mem::take(&mut w.reg));
                Flow::Go
            }
            Frame::TakeCell(cell) => {
                let value = w.take_cell(cell);
                w.ret(value)
            }
            Frame::RunCo(frame) => {
                w.reg = Val::None;
                w.run_co(*frame)
            }
            Frame::OnMain(frame) => w.co_call_main(*frame, "the main thread"),
            Frame::Give(value) => w.ret(*value),
            Frame::KeepOver(frame) => {
                let kept = std::mem::take(&mut w.reg);
                w.seq([*frame, Frame::Give(Box::new(kept))])
            }
            Frame::Idle => unreachable!("starting the process stops here"),
            Frame::StopOnError(n) => w.stop_on_error(n),
            Frame::ImgCreated(format) => {
                if let Val::Done(Err(err)) = &mut w.reg
                    && err.errno == Some(Errno::EFBIG)
                {
                    err.desc = super::block::host_work::too_large(&format).into();
                }
                Flow::Go
            }
            Frame::Sleep(ns) => {
                let co = w.current();
                w.timer_set(w.now.saturating_add(ns), super::aio::TimerKind::CoSleep(co));
                Flow::Yield(Wait::Sleep)
            }

            Frame::GuestSeen => {
                w.see_guest_end();
                Flow::Go
            }
            Frame::DrainSeen(bs) => {
                w.see_drained(bs);
                Flow::Go
            }
            Frame::DrainedBegin(bs) => w.drained_begin(bs),
            Frame::DrainedEnd(bs) => w.bdrv_drained_end(bs),
            Frame::DrainAll => w.drain_all(),
            Frame::HmpDone => w.hmp_done(),
            Frame::FlushAll => w.flush_all(),
            Frame::DrainAllBegin => {
                w.drain_all_begin_nopoll();
                w.seq([Frame::Poll(Cond::DrainAll)])
            }
            Frame::LockGraph(0) => Flow::Go,
            Frame::BhPoll => w.aio_bh_poll(),
            Frame::LockGraph(n) => w.seq([Frame::GraphWrlock, Frame::GraphWrunlock, Frame::LockGraph(n - 1)]),
            Frame::DrainAllEnd => {
                w.drain_all_end();
                Flow::Go
            }
            Frame::GraphWrlock => w.graph_wrlock(),
            Frame::GraphWrlockTaken => w.graph_wrlock_taken(),
            Frame::GraphWrunlock => w.graph_wrunlock(),
            Frame::Rdlock => w.graph_co_rdlock(),
            Frame::Rdunlock => {
                w.aio.readers -= 1;
                Flow::Go
            }
            Frame::BdrvUnref(bs) => w.bdrv_unref(bs),
            Frame::BdrvClose(bs) => w.bdrv_close(bs),
            Frame::BdrvFree(bs) => w.bdrv_free(bs),
            Frame::UnrefChildren(bs) => w.unref_children(bs),
            Frame::DriverClose(bs) => w.driver_close(bs),
            Frame::DriverClosed(bs) => w.driver_closed(bs),
            Frame::BlkNewWithBs { bs, perm, beyond_eof } => w.blk_new_with_bs(bs, perm, beyond_eof),
            Frame::BlkNewAttached(blk) => w.blk_new_attached(blk),
            Frame::BlkNewOpen { spec, perm } => w.seq([Frame::BdrvOpen(spec), Frame::BlkNewOpened { perm }]),
            Frame::BlkNewOpened { perm } => w.blk_new_opened(perm),
            Frame::BlkInsertBs(blk, bs) => w.blk_insert_bs(blk, bs),
            Frame::BlkAttach(blk, bs) => w.blk_attach(blk, bs),
            Frame::ReplaceRoot { blk, new } => w.replace_root(blk, new),
            Frame::BlkUnref(blk) => w.blk_unref(blk),
            Frame::BlkDetach(blk) => w.blk_detach(blk),
            Frame::DropBacking(node) => w.drop_backing(node),
            Frame::ChangeBacking { node, file, format } => w.change_backing(node, file, format),
            Frame::HeaderChanged => w.header_changed(),
            Frame::ChangedBacking(file) => w.changed_backing(&file),
            Frame::Reopen(reopen) => w.reopen(reopen),
            Frame::ReopenUnswap(reopen) => w.reopen_unswap(reopen),
            Frame::AttachToNode { parent, name, role, bs } => w.attach_to_node(parent, name, role, bs),
            Frame::ReplaceNode { from, to } => {
                let done = w.replace_node(from, to, false);
                w.ret(Val::Done(done))
            }
            Frame::DropFilter { filter, below } => {
                w.replace_node(filter, below, true).expect("dropping a filter cannot cause a conflict");
                Flow::Go
            }
            Frame::SetBackingHd { bs, backing } => w.set_backing_hd(bs, backing),
            Frame::CloseAll => w.close_all(),

            Frame::BdrvOpen(spec) => w.bdrv_open(&spec),
            Frame::Open(opening, stage) => w.open_stage(opening, stage),
            Frame::OpenDone(opening) => w.open_done(opening),
            Frame::OpenFail(opening, err) => w.open_fail(&opening, err),
            Frame::OpenFormatFailed(opening, err) => w.open_format_failed(opening, err),
            Frame::BlockdevAdded => w.blockdev_added(),
            Frame::DriveOpened { blk } => w.drive_opened(blk),
            Frame::ImgCreate { path, format, backing, look, size } => w.img_create(path, &format, backing, look, size),
            Frame::ImgBackingOpened => w.img_backing_opened(),
            Frame::ImgCreateQcow2 { path, backing, size } => w.img_create_qcow2(&path, backing, size),
            Frame::Qcow2Format { file, options } => w.qcow2_format(file, options),
            Frame::Qcow2CreateFile { file, options } => w.qcow2_create_file_co(file, options),
            Frame::Formatting(formatting, stage) => w.formatting(formatting, stage),
            Frame::RawTruncate(file) => w.raw_truncate(file),
            Frame::RawTruncated => w.raw_truncated(),
            Frame::RawCreate { path, size, made, then } => w.raw_create(path, size, made, then),
            Frame::CreateOver(options) => w.create_over(&options),
            Frame::CreateDone(job) => w.create_done(job),

            Frame::Preadv { node, offset, bytes, flags } => w.bdrv_co_preadv(node, offset, bytes, flags),
            Frame::PreadvAligned { node, offset, bytes, id, flags } => w.preadv_aligned(node, offset, bytes, id, flags),
            Frame::CopyOnReadv(read) => w.copy_on_readv(read),
            Frame::DriverPwritev(req) => w.driver_pwritev(req),
            Frame::PreadvPieces(pieces) => w.preadv_pieces(pieces),
            Frame::PreadvEnd { node, id, skip, bytes } => w.preadv_end(node, id, skip, bytes),
            Frame::Pwritev(req) => w.bdrv_co_pwritev(req),
            Frame::PwritevPad(req) => w.pwritev_pad(req),
            Frame::PaddingRead { node, offset, bytes } => w.padding_read(node, offset, bytes),
            Frame::PaddingReadDone { node, offset, bytes } => w.padding_read_done(node, offset, bytes),
            Frame::PwritevPadded(req) => w.pwritev_padded(req),
            Frame::PwritevAligned(req) => w.pwritev_aligned(req),
            Frame::PwritevPieces(req) => w.pwritev_pieces(req),
            Frame::PwritevFinish { node, offset, bytes } => w.pwritev_finish(node, offset, bytes),
            Frame::PwritevEnd { node, id } => w.pwritev_end(node, id),
            Frame::FlushAfterWrite(node) => w.flush_after_write(node),
            Frame::PwriteZeroes(req) => w.pwrite_zeroes(req),
            Frame::PwriteZeroesPiece { rest, num } => w.pwrite_zeroes_piece(rest, num),
            Frame::Pdiscard { node, offset, bytes } => w.bdrv_co_pdiscard(node, offset, bytes),
            Frame::PdiscardBegin { node, offset, bytes, id } => w.pdiscard_begin(node, offset, bytes, id),
            Frame::PdiscardPiece { node, offset, bytes } => w.pdiscard_piece(node, offset, bytes),
            Frame::PdiscardEnd { node, offset, bytes, id } => w.pdiscard_end(node, offset, bytes, id),
            Frame::FlushNext(it) => w.flush_next(it),
            Frame::BdrvCoFlush(node) => w.bdrv_co_flush(node),
            Frame::FlushTurn { node, generation } => w.flush_turn(node, generation),
            Frame::FlushToDisk { node, generation } => w.flush_to_disk(node, generation),
            Frame::FlushChildren { node, index, ret } => w.flush_children(node, index, ret),
            Frame::FlushEnd { node, generation } => w.flush_end(node, generation),
            Frame::Status { node, offset, bytes, want_zero } => w.block_status(node, offset, bytes, want_zero),
            Frame::StatusDone { node, offset, bytes, want_zero } => w.status_done(node, offset, bytes, want_zero),
            Frame::StatusRecursed { node, offset, status } => w.status_recursed(node, offset, *status),
            Frame::StatusAbove(req) => w.status_above(req),
            Frame::StatusAboveNext(req) => w.status_above_next(req),
            Frame::BlkTruncate { blk, size } => w.blk_co_truncate(blk, size),
            Frame::Truncate { node, size } => w.bdrv_co_truncate(node, size),
            Frame::TruncateEnd { node, size, id } => w.truncate_end(node, size, id),

            Frame::PassRead { node, offset, bytes } => w.pass_read(node, offset, bytes),
            Frame::PassWrite { req, shift } => w.pass_write(req, shift),
            Frame::PassDiscard { node, offset, bytes } => w.pass_discard(node, offset, bytes),
            Frame::DriverFlushToOs(node) => w.driver_flush_to_os(node),
            Frame::DriverFlushToDisk(node) => w.driver_flush_to_disk(node),
            Frame::DriverTruncate { node, size, zero } => w.driver_truncate(node, size, zero),
            Frame::StatusRaw { node, offset, bytes, want_zero } => w.status_raw(node, offset, bytes, want_zero),
            Frame::StatusOrError => {
                if let Err(errno) = w.take_ret() {
                    w.stack.pop();
                    w.reg = Val::Status(Err(errno));
                }
                Flow::Go
            }
            Frame::StatusVal => {
                if let Val::Ret(Err(errno)) = w.reg {
                    w.reg = Val::Status(Err(errno));
                }
                Flow::Go
            }
            Frame::RuleCheck { node, iotype, offset, bytes } => w.rule_check(node, iotype, offset, bytes),
            Frame::BlkdebugEvent { node, event } => w.blkdebug_event(node, event),
            Frame::ChildEvent { node, event } => w.child_event(node, event),
            Frame::ThrottleWait { who, write, bytes } => w.throttle_intercept(who, write, bytes),
            Frame::ThrottleWoken { who, write } => w.throttle_woken(who, write),
            Frame::ThrottleGo { who, write, bytes } => w.throttle_go(who, write, bytes),
            Frame::ThrottleRestart { who, write } => w.throttle_restart(who, write),
            Frame::DriveLimits(wanted) => w.drive_limits(&wanted),
            Frame::Qcow2Op { node, op } => w.qcow2_run(node, op),
            Frame::Qcow2Relock { node, op } => w.qcow2_relock(node, op),
            Frame::Qcow2TaskDone { node, parent, slot } => w.qcow2_task_done(node, parent, slot),
            Frame::Qcow2Truncated(node) => w.qcow2_truncated(node),
            Frame::Qcow2Copied(node) => w.qcow2_copied(node),
            Frame::Qcow2Open(node) => w.qcow2_open(node),
            Frame::Qcow2Opened(node) => w.qcow2_opened(node),
            Frame::Qcow2Close(node) => w.qcow2_close(node),
            Frame::CorPreadv(read) => w.cor_preadv(read),
            Frame::CbwWaitFrozen { node, from, len } => w.cbw_wait_frozen(node, from, len),
            Frame::SnapshotReadDone(read) => w.snapshot_read_done(read),
            Frame::SnapshotStatusDone { cbw, frozen } => w.snapshot_status_done(cbw, frozen),
            Frame::CbwCopyBeforeWrite { node, offset, bytes } => w.cbw_copy_before_write(node, offset, bytes),
            Frame::CbwCallEnded(call) => w.cbw_call_ended(call),
            Frame::CbwCopied { node, call, from, len } => w.cbw_copied(node, call, from, len),

            Frame::CopyCommon(call) => w.copy_common(call),
            Frame::CopyDirty { call, offset, bytes } => w.copy_dirty(call, offset, bytes),
            Frame::CopyTaskStatus { task, from, end } => w.copy_task_status(task, from, end),
            Frame::CopySlept(call) => {
                w.calls[call].sleeping = None;
                Flow::Go
            }
            Frame::CopyGetMem { task } => w.copy_get_mem(task),
            Frame::CopyTaskRun { task, end } => w.copy_task_run(task, end),
            Frame::CopyInlineDone(call, offset, bytes) => w.copy_inline_done(call, offset, bytes),
            Frame::CopyPoolTaskDone(call) => w.copy_pool_task_done(call),
            Frame::CopyWaitAll(call) => w.copy_wait_all(call),
            Frame::CopyPassDone(call) => w.copy_pass_done(call),
            Frame::CopyWaited(call) => w.copy_waited(call),
            Frame::CopyTaskEntry(task) => w.copy_task_entry(task),
            Frame::CopyDo { task, method } => w.copy_do(task, method),
            Frame::CopyReadDone { task, method } => w.copy_read_done(task, method),
            Frame::CopyTaskDone { task, method, read } => w.copy_task_done(task, method, read),
            Frame::CopyRangeFrom(copy) => w.copy_range_from(copy),
            Frame::CopyRangeFromBegun { copy, id } => w.copy_range_from_begun(copy, id),
            Frame::CopyRangeTo(copy) => w.copy_range_to(copy),
            Frame::CopyRangeToBegun { copy, id } => w.copy_range_to_begun(copy, id),
            Frame::CopyRangeDone { task } => w.copy_range_done(task),
            Frame::CopyResetUnallocated { cbw, offset } => w.copy_reset_unallocated(cbw, offset, 0),
            Frame::CopyResetStatus { cbw, offset, counted } => w.copy_reset_status(cbw, offset, counted),

            Frame::JobCoEntry(job) => w.job_co_entry(job),
            Frame::JobRun(job) => w.job_run(job),
            Frame::JobRunDone(job) => w.job_run_done(job),
            Frame::JobRatelimitSlept(job) => w.job_ratelimit_slept(job),
            Frame::JobPrepared { job, members, at } => w.job_prepared(job, &members, at),
            Frame::JobSettled { job, failed, committed, before } => w.job_settled(job, failed, committed, before),
            Frame::JobPausePoint(job) => w.job_pause_point(job),
            Frame::JobPausePointHooked(job) => w.job_pause_point_hooked(job),
            Frame::JobPausePointWoken(job, status) => w.job_pause_point_woken(job, status),
            Frame::JobYield(job) => w.job_yield(job),
            Frame::JobStart(job) => w.job_start(job),
            Frame::JobExit(job) => w.job_exit(job),
            Frame::JobCompleted(job) => w.job_completed(job),
            Frame::JobDoFinalize(job) => w.job_do_finalize(job),
            Frame::JobTxnAbortLoop(txn) => w.job_txn_abort_loop(txn),
            Frame::JobFinalizeSingle(job) => w.job_finalize_single(job),
            Frame::JobRemoveAllBdrv(job) => w.job_remove_all_bdrv(job),
            Frame::JobFinalEvents(job) => w.job_final_events(job),
            Frame::JobUnref(job) => w.job_unref(job),
            Frame::JobFree(job) => w.job_free(job),
            Frame::JobEarlyFail(job) => w.job_early_fail(job),
            Frame::JobCancel(job, force) => w.job_cancel(job, force),
            Frame::JobCancelSync(job) => w.job_cancel_sync(job),
            Frame::JobCancelSyncAll => w.job_cancel_sync_all(),
            Frame::JobAddBdrv { job, name, bs } => {
                let perms = super::job::Perms::NONE;
                w.block_job_add_bdrv(job, name, bs, perms).expect("a job takes no permissions on its target");
                Flow::Go
            }
            Frame::JobOrError(frame) => w.job_or_error(*frame),

            Frame::BackupCommon { common, source, target, txn } => w.do_backup_common(&common, source, target, txn),
            Frame::CbwAppend(args) => w.cbw_append(&args),
            Frame::CbwOpened { cbw, discard_source, min_cluster } => w.cbw_opened(cbw, discard_source, min_cluster),
            Frame::InsertNode { node, below } => w.insert_node(node, below),
            Frame::NodeInserted(node) => w.node_inserted(node),
            Frame::FilterDrop(filter) => w.filter_drop(filter),
            Frame::FilterDropDrained { filter, below } => w.filter_drop_drained(filter, below),
            Frame::BackupCbwAppended(args) => w.backup_cbw_appended(args),
            Frame::BackupCreateJob { cbw, args } => w.backup_create_job(cbw, args),
            Frame::BackupCreateFailed { cbw, args, err } => w.backup_create_failed_frame(cbw, &args, err),
            Frame::BackupCbwDrop(job) => w.backup_cbw_drop(job),
            Frame::BackupLoop(job) => w.backup_loop(job),
            Frame::BackupWait(job) => w.backup_wait(job),
            Frame::BackupCallCancelled(job) => w.backup_call_cancelled(job),
            Frame::BackupIdle(job) => w.backup_idle(job),
            Frame::BackupScan { job, offset } => w.backup_scan(job, offset),
            Frame::BackupScanPaused { job, offset } => w.backup_scan_paused(job, offset),
            Frame::BackupScanned { job, offset } => w.backup_scanned(job, offset),
            Frame::DriveBackupDrained { args, bs, txn } => w.drive_backup_drained(args, bs, txn),
            Frame::DriveBackupCreated { args, bs, txn } => w.drive_backup_created(args, bs, txn),
            Frame::DriveBackupOpened { args, bs, txn } => w.drive_backup_opened(args, bs, txn),

            Frame::Stream(stream) => stream.run(w),

            Frame::TranPrepare(tran, index) => w.tran_prepare(tran, index),
            Frame::TranPrepared(tran, index) => w.tran_prepared(tran, index),
            Frame::TranJob(tran, index) => w.tran_job(tran, index),
            Frame::TranCommit(tran, index) => w.tran_commit(tran, index),
            Frame::TranAbort(tran, index) => w.tran_abort(tran, index),
            Frame::TranClean(tran, index) => w.tran_clean(tran, index),
            Frame::TranEnd(tran) => w.tran_end(tran),
            Frame::Snapshot(tran, index, stage) => w.snapshot_stage(tran, index, stage),
            Frame::BitmapRelease(bs, id) => w.bitmap_release(bs, id),
            Frame::BitmapStoreRemoved => w.bitmap_store_removed(),
            Frame::QmpCommand => w.qmp_command(),
            Frame::QmpCommandDone => w.qmp_command_done(),
            Frame::DevicePlugged(plugged) => w.device_plugged(*plugged),
            Frame::MediumOpened(op) => w.medium_opened(op),
            Frame::MediumStep(op) => w.medium_step(op),
            Frame::MediumGone(blk) => w.medium_gone(blk),
            Frame::UnplugOnReset => w.unplug_on_reset(),
            Frame::DeviceGone { id, path, inner } => w.device_gone(id, &path, inner),
            Frame::ResetDone => w.reset_done(),
            Frame::BlockResize { device, node_name, size } => w.block_resize(device, node_name, size),
            Frame::ResizeAllowed { bs, size } => w.resize_allowed(bs, size),
            Frame::ResizeAttached { bs, size } => w.resize_attached(bs, size),
            Frame::BlkCo { blk, request } => w.blk_co(blk, request),
            Frame::BlkCoDone(blk) => w.blk_co_done(blk),
            Frame::QemuIo { blk, command } => w.qemu_io(blk, &command),
            Frame::QemuIoAttached { blk, command } => w.qemu_io_attached(blk, command),
            Frame::QemuIoReadDone { blk, read, start } => w.qemu_io_read_done(blk, &read, start),
            Frame::QemuIoWriteDone { blk, write, start } => w.qemu_io_write_done(blk, &write, start),
            Frame::QemuIoDiscardDone { offset, bytes, report, start } => {
                let elapsed = w.now - start;
                w.qemu_io_discard_done(Done { offset, bytes, elapsed }, report)
            }
            Frame::QemuIoTruncated => w.qemu_io_truncated(),
            Frame::QemuIoWalked(walk) => w.qemu_io_walked(*walk),
            Frame::QemuIoFlushed { blk, start } => w.account(blk, AcctType::Flush, 0, start, false),
        }
    }
}

impl World {
    /// `Frame::StopOnError`
    fn stop_on_error(&mut self, n: u32) -> Flow {
        let failed = matches!(
            &self.reg,
            Val::Ret(Err(_)) | Val::Data(Err(_)) | Val::Done(Err(_)) | Val::Status(Err(_)) | Val::Opened(Err(_))
        );
        if failed {
            let keep = self.stack.len() - n as usize;
            self.stack.truncate(keep);
        } else {
            self.reg = Val::None;
        }
        Flow::Go
    }
}
