//! What the host refuses, and how fast its disk is: the step `host`. Its members depend on each other, so it is read and written by hand,
//! side by side.

use crate::base::errno::Errno;
use crate::host::{DiskRates, Failing, HostChange, Request};
use crate::scenario::error::{Fault, Read};
use crate::scenario::fields::Fields;
use crate::scenario::form::{ValueKind, ValueType};
use crate::scenario::kinds::{FileLength, is_none};
use crate::scenario::plan::FileOp;
use crate::scenario::tree::Node;
use crate::scenario::yaml::Yaml;

/// What stands behind `host`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host;

impl ValueKind for Host {
    type Of = FileOp;
    const TYPE: ValueType = ValueType::Object;

    fn read(node: &Node) -> Read<FileOp> {
        host(node)
    }

    fn write(of: &FileOp) -> Option<Yaml> {
        match of {
            FileOp::Host(change) => Some(written(change)),
            _ => None,
        }
    }
}

/// What the host refuses: `capacity`, how fast its `disk` is, or of one `file` one of `limit`, `fail` and `size`.
fn host(node: &Node) -> Read<FileOp> {
    let mut fields = Fields::of("host", node)?;
    let (capacity, file) = (fields.opt("capacity"), fields.opt("file"));
    let (limit, fail, size) = (fields.opt("limit"), fields.opt("fail"), fields.opt("size"));
    if let (None, None, Some(node)) = (capacity, file, fields.opt("disk")) {
        fields.end()?;
        return Ok(FileOp::Host(HostChange::Disk(disk(node)?)));
    }
    let change = match (capacity, file, limit, fail, size) {
        (Some(capacity), None, None, None, None) => HostChange::Capacity(bound(capacity)?),
        (None, Some(file), Some(limit), None, None) => HostChange::Limit(file.text()?, bound(limit)?),
        (None, Some(file), None, None, Some(size)) => HostChange::Resize(file.text()?, FileLength::read(size)?),
        (None, Some(file), None, Some(fail), None) if is_none(fail) => HostChange::Mend(file.text()?),
        (None, Some(file), None, Some(fail), None) => {
            let failing = Failing {
                on: fail.word(Request::NAMES)?,
                errno: errno(fields.req("errno")?)?,
                after: fields.opt("after").map_or(Ok(0), Node::uint)?,
                times: fields.opt("times").map(Node::uint).transpose()?,
            };
            HostChange::Fail(file.text()?, failing)
        }
        _ => {
            let expected = "expected `capacity`, `disk`, or `file` and one of `limit`, `fail` and `size`";
            return Err(Fault::new(node.span, "this is nothing that a host does", expected));
        }
    };
    fields.end()?;
    Ok(FileOp::Host(change))
}

/// How fast the disk is: `none`, or what it does in a second.
fn disk(node: &Node) -> Read<Option<DiskRates>> {
    if is_none(node) {
        return Ok(None);
    }
    let mut fields = Fields::of("disk", node)?;
    let (bytes, requests) = (fields.req("bytes")?, fields.req("requests")?);
    let rates = DiskRates { bytes: bytes.size()?, requests: requests.uint()? };
    for (node, number) in [(bytes, rates.bytes), (requests, rates.requests)] {
        if number == 0 {
            return Err(Fault::new(node.span, "a disk that does nothing", "expected more than 0 a second"));
        }
    }
    fields.end()?;
    Ok(Some(rates))
}

/// A size, or `none`.
fn bound(node: &Node) -> Read<Option<u64>> {
    if is_none(node) { Ok(None) } else { node.size().map(Some) }
}

fn errno(node: &Node) -> Read<Errno> {
    let name = node.text()?;
    Errno::by_name(&name).ok_or_else(|| {
        let expected = format!("expected a name such as `EIO` or `ENOSPC`, found `{name}`");
        Fault::new(node.span, "this is no errno of Linux", expected)
    })
}

fn written(change: &HostChange) -> Yaml {
    let text = |text: &str| Some(Yaml::filled(text));
    let bound = |bytes: Option<u64>| Some(bytes.map_or_else(|| Yaml::plain("none"), Yaml::size));
    let number = |n: u64| Yaml::plain(n.to_string());
    match change {
        HostChange::Capacity(bytes) => Yaml::map([("capacity", bound(*bytes))]),
        HostChange::Disk(None) => Yaml::map([("disk", text("none"))]),
        HostChange::Disk(Some(rates)) => {
            let rates = [("bytes", Some(Yaml::size(rates.bytes))), ("requests", Some(number(rates.requests)))];
            Yaml::map([("disk", Some(Yaml::map(rates)))])
        }
        HostChange::Limit(file, bytes) => Yaml::map([("file", text(file)), ("limit", bound(*bytes))]),
        HostChange::Resize(file, size) => Yaml::map([("file", text(file)), ("size", Some(Yaml::size(*size)))]),
        HostChange::Mend(file) => Yaml::map([("file", text(file)), ("fail", text("none"))]),
        HostChange::Fail(file, failing) => Yaml::map([
            ("file", text(file)),
            ("fail", text(failing.on.name())),
            ("errno", text(failing.errno.name().unwrap_or("EIO"))),
            ("after", (failing.after > 0).then(|| number(failing.after))),
            ("times", failing.times.map(number)),
        ]),
    }
}
