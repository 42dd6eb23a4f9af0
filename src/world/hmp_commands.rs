//! Commands of the human monitor other than `qemu-io`: the guest's state, what block devices and jobs there are, steering jobs
//! (`block/monitor/block-hmp-cmds.c`, `monitor/hmp-cmds.c`).

use super::World;
use super::commands::not_simulated;
use super::frame::{Flow, Frame};
use super::value::Val;
use crate::base::Json;
use crate::block::cvtnum::cvtnum;
use crate::qmp::command::Command;
use crate::qmp::hmp::{error_reply, report_reply};
use std::fmt::Write as _;
use std::sync::Arc;

impl World {
    /// Runs a command by its full name. Leaves `Val::Json`.
    pub(super) fn hmp_command(&mut self, name: &str, args: &[String]) -> Flow {
        let text = match name {
            "quit" => return self.hmp_run(Command::Quit),
            "stop" => return self.hmp_run(Command::Stop),
            "cont" => return self.hmp_run(Command::Cont),
            "system_reset" => return self.hmp_run(Command::SystemReset),
            "commit" => match self.hmp_commit(args) {
                Ok(text) => text,
                Err(name) => return self.ret(Val::Json(Err(not_simulated(name)))),
            },
            "block_job_cancel"
            | "block_job_pause"
            | "block_job_resume"
            | "block_job_complete"
            | "block_job_set_speed"
            | "block_resize" => {
                let command = if name == "block_resize" { resize_command(args) } else { job_command(name, args) };
                return match command {
                    Ok(command) => self.hmp_run(command),
                    Err(text) => self.ret(Val::Json(Ok(text.into()))),
                };
            }
            "info block" => match args.iter().any(|arg| arg.starts_with('-') && arg.contains('v')) {
                true => return self.ret(Val::Json(Err(not_simulated("info block -v")))),
                false => self.info_block(args),
            },
            "info block-jobs" => self.info_block_jobs(),
            "info iothreads" => self.info_iothreads(),
            "info name" => self.machine.name.as_deref().map(report_reply).unwrap_or_default(),
            "info status" => {
                let status = self.query_status();
                match status.get("status").and_then(Json::as_str).unwrap_or_default() {
                    "running" => report_reply("VM status: running"),
                    "paused" => report_reply("VM status: paused"),
                    other => report_reply(&format!("VM status: paused ({other})")),
                }
            }
            "info uuid" => report_reply(self.machine.uuid.as_deref().unwrap_or("00000000-0000-0000-0000-000000000000")),
            "info version" => report_reply("10.0.2"),
            other => return self.ret(Val::Json(Err(not_simulated(other)))),
        };
        self.ret(Val::Json(Ok(text.into())))
    }

    /// Runs a QMP command for the human monitor.
    fn hmp_run(&mut self, command: Command) -> Flow {
        self.stack.push(Frame::HmpDone);
        self.run_command(0, command)
    }

    /// What the human monitor says of a QMP command that has ended.
    pub(super) fn hmp_done(&mut self) -> Flow {
        let text = match std::mem::take(&mut self.reg) {
            Val::Json(Err(err)) | Val::Done(Err(err)) => error_reply(&err.desc),
            _ => String::new(),
        };
        self.ret(Val::Json(Ok(text.into())))
    }

    /// `hmp_commit`. The error is what is not simulated.
    fn hmp_commit(&self, args: &[String]) -> Result<String, &'static str> {
        let Some(device) = args.first() else {
            return Ok("commit: block device name expected\r\nTry \"help commit\" for more information\r\n".to_owned());
        };
        if device == "all" {
            let has_backing = self.graph.backends.iter().any(|(blk, _)| {
                self.graph.blk_bs(blk).is_some_and(|bs| self.graph.cow_bs(self.graph.skip_filters(bs)).is_some())
            });
            return if has_backing { Err("commit") } else { Ok(String::new()) };
        }
        if self.graph.blk_by_name(device).is_none() {
            return Ok(report_reply(&format!("Device '{device}' not found")));
        }
        Err("commit")
    }

    /// `hmp_info_block`: devices; then nodes, if they are asked for or a name is none of a device.
    fn info_block(&self, args: &[String]) -> String {
        let nodes = args.iter().any(|arg| arg == "-n");
        let wanted = args.iter().find(|arg| !arg.starts_with('-'));
        let (mut out, mut printed) = (String::new(), false);
        let mut print = |list: &Json, key: &str, show: &dyn Fn(&Json, &mut String)| {
            for (i, item) in list.as_list().unwrap_or_default().iter().enumerate() {
                let name = item.get(key).and_then(Json::as_str).unwrap_or_default();
                if wanted.is_some_and(|wanted| name != wanted) {
                    continue;
                }
                if i > 0 {
                    out.push_str("\r\n");
                }
                show(item, &mut out);
                printed = true;
            }
            printed
        };
        let device = |item: &Json, out: &mut String| print_block_info(Some(item), item.get("inserted"), out);
        let done = !nodes && (print(&self.query_block(), "device", &device) || wanted.is_none());
        if !done {
            let node = |item: &Json, out: &mut String| print_block_info(None, Some(item), out);
            print(&self.query_named_block_nodes(false), "node-name", &node);
        }
        out
    }

    /// `hmp_info_block_jobs`
    fn info_block_jobs(&self) -> String {
        let jobs = self.query_block_jobs();
        let jobs = jobs.as_list().unwrap_or_default();
        if jobs.is_empty() {
            return report_reply("No active jobs");
        }
        let mut out = String::new();
        for job in jobs {
            let text = |key: &str| job.get(key).and_then(Json::as_str).unwrap_or_default();
            let number = |key: &str| job.get(key).and_then(Json::as_u64).unwrap_or_default();
            let (offset, len, speed) = (number("offset"), number("len"), number("speed"));
            let done =
                format!("device {}: Completed {offset} of {len} bytes, speed limit {speed} bytes/s", text("device"));
            let line = if text("type") == "stream" {
                format!("Streaming {done}")
            } else {
                format!("Type {}, {done}", text("type"))
            };
            out.push_str(&report_reply(&line));
        }
        out
    }

    /// `hmp_info_iothreads`
    fn info_iothreads(&self) -> String {
        let mut out = String::new();
        for thread in self.query_iothreads().as_list().unwrap_or_default() {
            let number = |key: &str| thread.get(key).and_then(Json::as_u64).unwrap_or_default();
            let id = thread.get("id").and_then(Json::as_str).unwrap_or_default();
            let _ = write!(out, "{id}:\r\n  thread_id={}\r\n", number("thread-id"));
            for key in ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"] {
                let _ = write!(out, "  {key}={}\r\n", number(key));
            }
        }
        out
    }
}

fn job_command(name: &str, args: &[String]) -> Result<Command, String> {
    let force = args.iter().any(|arg| arg == "-f");
    let mut words = args.iter().filter(|arg| *arg != "-f");
    let device: Arc<str> = match words.next() {
        Some(device) => device.as_str().into(),
        None => {
            return Err(format!("{name}: block device name expected\r\nTry \"help {name}\" for more information\r\n"));
        }
    };
    Ok(match name {
        "block_job_cancel" => Command::BlockJobCancel { device, force: Some(force) },
        "block_job_pause" => Command::BlockJobPause { device },
        "block_job_resume" => Command::BlockJobResume { device },
        "block_job_complete" => Command::BlockJobComplete { device },
        _ => match words.next().and_then(|speed| speed.parse().ok()) {
            Some(speed) => Command::BlockJobSetSpeed { device, speed },
            None => return Err(format!("{name}: invalid size\r\nTry \"help {name}\" for more information\r\n")),
        },
    })
}

/// `hmp_block_resize`: a size without a suffix is in MiB.
fn resize_command(args: &[String]) -> Result<Command, String> {
    let wrong = |what: &str| format!("block_resize: {what}\r\nTry \"help block_resize\" for more information\r\n");
    let device = args.first().ok_or_else(|| wrong("block device name expected"))?;
    let size = args.get(1).map_or("", String::as_str);
    let plain = size.ends_with(|c: char| c.is_ascii_digit()) && !size.starts_with("0x");
    let bytes = cvtnum(&if plain { format!("{size}M") } else { size.to_owned() });
    let size = bytes.ok().and_then(|n| i64::try_from(n).ok()).ok_or_else(|| wrong("invalid size"))?;
    Ok(Command::BlockResize { device: Some(device.as_str().into()), node_name: None, size })
}

/// `print_block_info`
fn print_block_info(info: Option<&Json>, inserted: Option<&Json>, out: &mut String) {
    let text = |json: Option<&Json>, key: &str| {
        json.and_then(|json| json.get(key)).and_then(Json::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let is = |json: Option<&Json>, key: &str| json.and_then(|json| json.get(key)).and_then(Json::as_bool) == Some(true);
    let node = text(inserted, "node-name");
    match (text(info, "device"), node) {
        (Some(device), Some(node)) => drop(write!(out, "{device} ({node})")),
        (Some(name), None) | (None, Some(name)) => out.push_str(&name),
        (None, None) => out.push_str(&text(info, "qdev").unwrap_or_else(|| "<anonymous>".to_owned())),
    }
    match inserted {
        None => out.push_str(": [not inserted]\r\n"),
        Some(_) => {
            let (file, drv) = (text(inserted, "file").unwrap_or_default(), text(inserted, "drv").unwrap_or_default());
            let _ = write!(out, ": {file} ({drv}{})\r\n", if is(inserted, "ro") { ", read-only" } else { "" });
        }
    }
    if let Some(qdev) = text(info, "qdev") {
        let _ = write!(out, "    Attached to:      {qdev}\r\n");
    }
    if is(info, "removable") {
        let (locked, tray) = (is(info, "locked"), is(info, "tray_open"));
        let (locked, tray) = (if locked { "" } else { "not " }, if tray { "open" } else { "closed" });
        let _ = write!(out, "    Removable device: {locked}locked, tray {tray}\r\n");
    }
    let Some(node) = inserted else { return };
    let cache = node.get("cache");
    let _ = write!(
        out,
        "    Cache mode:       {}{}{}\r\n",
        if is(cache, "writeback") { "writeback" } else { "writethrough" },
        if is(cache, "direct") { ", direct" } else { "" },
        if is(cache, "no-flush") { ", ignore flushes" } else { "" },
    );
    if let Some(backing) = text(inserted, "backing_file") {
        let depth = node.get("backing_file_depth").and_then(Json::as_u64).unwrap_or_default();
        let _ = write!(out, "    Backing file:     {backing} (chain depth: {depth})\r\n");
    }
    if let Some(mode) = text(inserted, "detect_zeroes").filter(|mode| mode != "off") {
        let _ = write!(out, "    Detect zeroes:    {mode}\r\n");
    }
}
