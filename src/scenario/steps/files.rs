//! What is done to files from outside of QEMU, as `qemu-img` and `qemu-io` do it.

use super::Step;
use super::host::Host;
use crate::scenario::error::{Fault, Read};
use crate::scenario::form::{Form, ValueKind, ValueType, Written, form};
use crate::scenario::kinds::{
    Bool, Bytes, ClusterSize, Compat, Count, FileLength, Format, HEX_PATTERN, Hex, HexPattern, ImageSize, NewFile,
    OldFile, PatternByte, Size, Text,
};
use crate::scenario::plan::{Backing, Extent, FileOp, ImageFormat, Qcow2Options, QemuImg, StepKind, WriteData};
use crate::scenario::tree::{Node, Value};
use crate::scenario::yaml::Yaml;
use std::sync::Arc;

/// What qemu-io takes as a length (`BDRV_REQUEST_MAX_BYTES`).
const MAX_LENGTH: u64 = (i32::MAX as u64) & !511;

form! {
    /// What `qemu-img create -b FILE -F FORMAT` takes.
    BackingFile: Backing = "backing" (Backing { file, format });
    file: req Text, "its name";
    format: req Format, "its format";
}

form! {
    /// `qemu-img create`
    Create: FileOp = "create" (FileOp::Create {
        file,
        format,
        size,
        backing,
        options: Qcow2Options { cluster_size, compat_v3, lazy_refcounts },
    });
    file: req NewFile, "the new file";
    format: req Format, "its format";
    size: opt ImageSize, "its virtual size; without, that of the backing file";
    backing: opt BackingFile, "the backing file";
    cluster_size as "cluster-size": opt ClusterSize, "cluster_size";
    compat_v3 as "compat": opt Compat, "the version of the format";
    lazy_refcounts as "lazy-refcounts": opt Bool, "lazy_refcounts";
    => check image_that_can_be_made;
}

fn image_that_can_be_made(of: &FileOp, node: &Node) -> Read {
    let FileOp::Create { format, size, backing, .. } = of else { return Ok(()) };
    if size.is_none() && backing.is_none() {
        return Err(Fault::new(
            node.span,
            "`create` lacks the member `size`",
            "expected `size`, or `backing` to take it from",
        ));
    }
    if *format == ImageFormat::Raw {
        let strays = ["cluster-size", "compat", "lazy-refcounts"];
        if let Some(stray) = strays.into_iter().find_map(|name| node.member(name)) {
            return Err(Fault::new(
                stray.span,
                "a raw image has no such option",
                "expected nothing here, or `format: qcow2`",
            ));
        }
        if backing.is_some() {
            return Err(Fault::new(node.span, "a raw image has no backing file", "expected `format: qcow2`"));
        }
    }
    Ok(())
}

form! {
    /// `qemu-io write`
    Write: FileOp = "write" (FileOp::Write { file, format, offset, length, data: WriteData::Pattern(pattern) });
    file: req OldFile, "the image";
    format: req Format, "the format it is opened with";
    offset: req Size, "the first byte";
    length: req Size, "how many bytes";
    pattern: req PatternByte, "the byte that is written";
    => check range_of_qemu_io;
    => order pattern_first;
}

form! {
    /// `qemu-io write -z`
    Zero: FileOp = "zero" (FileOp::Write { file, format, offset, length, data: WriteData::Zero });
    file: req OldFile, "the image";
    format: req Format, "the format it is opened with";
    offset: req Size, "the first byte";
    length: req Size, "how many bytes";
    => check range_of_qemu_io;
}

form! {
    /// `qemu-io discard`
    Discard: FileOp = "discard" (FileOp::Write { file, format, offset, length, data: WriteData::Discard });
    file: req OldFile, "the image";
    format: req Format, "the format it is opened with";
    offset: req Size, "the first byte";
    length: req Size, "how many bytes";
    => check range_of_qemu_io;
}

fn range_of_qemu_io(of: &FileOp, node: &Node) -> Read {
    let FileOp::Write { offset, length, .. } = of else { return Ok(()) };
    let (offset, length) = (*offset, *length);
    let span = node.member("length").map_or(node.span, |length| length.span);
    if length > MAX_LENGTH {
        let expected = format!("expected at most {MAX_LENGTH} bytes, found {length}");
        return Err(Fault::new(span, "qemu-io changes less than 2 GiB at once", expected));
    }
    if length == 0 || offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Fault::new(span, "this range has no bytes or too many", "expected offset and length within 2^63"));
    }
    Ok(())
}

/// The pattern stands before the range, as in `write -P PATTERN OFFSET LENGTH`.
fn pattern_first(written: &mut Written) {
    written.sort_by_key(|(name, _)| matches!(*name, "offset" | "length"));
}

/// A backing file, or `null` for none.
#[derive(Clone, Copy, Debug)]
struct BackingOrNull;

impl ValueKind for BackingOrNull {
    type Of = Option<Backing>;
    const TYPE: ValueType = ValueType::Or(&[BackingFile::TYPE, ValueType::Word(&[])]);

    fn read(node: &Node) -> Read<Option<Backing>> {
        match node.value {
            Value::Null => Ok(None),
            _ => BackingFile::read(node).map(Some),
        }
    }

    fn write(of: &Option<Backing>) -> Option<Yaml> {
        of.as_ref().map_or_else(|| Some(Yaml::plain("null")), BackingFile::write)
    }
}

form! {
    /// `qemu-img rebase -u`
    Rebase: FileOp = "rebase" (FileOp::Rebase { file, backing });
    file: req OldFile, "the image";
    backing: req BackingOrNull, "the new backing file; null for none";
}

form! {
    /// Bytes of a file: a pattern, and how often it stands there.
    ExtentOfFile: Extent = "data" (Extent { at, bytes, times });
    at: req Size, "the first byte";
    bytes as "hex": req HexPattern, "the bytes";
    times: def Bytes = 1, "how often";
    => check pattern_that_can_be_repeated;
}

fn pattern_that_can_be_repeated(of: &Extent, node: &Node) -> Read {
    if of.times == 1 || (of.times > 1 && of.bytes.len() == 1) {
        return Ok(());
    }
    let span = node.member("hex").map_or(node.span, |hex| hex.span);
    Err(Fault::new(span, "these are no bytes", HEX_PATTERN))
}

/// What stands in a file.
#[derive(Clone, Copy, Debug)]
struct Extents;

impl ValueKind for Extents {
    type Of = Vec<Extent>;
    const TYPE: ValueType = ValueType::List(&ExtentOfFile::TYPE);

    fn read(node: &Node) -> Read<Vec<Extent>> {
        node.list()?.iter().map(ExtentOfFile::read).collect()
    }

    fn write(of: &Vec<Extent>) -> Option<Yaml> {
        Some(Yaml::List(of.iter().filter_map(ExtentOfFile::write).collect()))
    }
}

form! {
    /// A file as it was found.
    Content: FileOp = "content" (FileOp::Content { file, size, data });
    file: req NewFile, "the file";
    size: req Size, "its length";
    data: req Extents, "what stands in it";
    => check content_within_the_file;
}

fn content_within_the_file(of: &FileOp, node: &Node) -> Read {
    let FileOp::Content { size, data, .. } = of else { return Ok(()) };
    let end = |e: &Extent| (e.bytes.len() as u64).checked_mul(e.times).and_then(|len| e.at.checked_add(len));
    if *size > i64::MAX as u64 || data.iter().any(|e| end(e).is_none_or(|end| end > *size)) {
        let span = node.member("size").map_or(node.span, |size| size.span);
        return Err(Fault::new(span, "the file is shorter than its data, or too long", "expected more, up to 2^63"));
    }
    Ok(())
}

form! {
    /// For configuration files and the like, which QEMU reads.
    TextFile: FileOp = "text" (FileOp::Text { file, content });
    file: req NewFile, "the file";
    content: req Text, "all it holds";
}

form! {
    /// Bytes of a file are changed.
    ChangedBytes: FileOp = "bytes" (FileOp::Bytes { file, at, bytes });
    file: req OldFile, "the file";
    at: req FileLength, "the first byte";
    bytes as "hex": req Hex, "the bytes";
}

form! {
    /// `qemu-img resize`
    Resize: FileOp = "resize" (FileOp::Resize { file, size });
    file: req OldFile, "the image";
    size: req ImageSize, "its size from then on";
}

form! {
    /// `qemu-img check`
    Check: FileOp = "check" (FileOp::Check { file, leaks, corruptions });
    file: req OldFile, "the image";
    leaks: def Count = 0, "clusters that leaked; without: none";
    corruptions: def Count = 0, "errors; without: none";
}

/// A step on files of a form.
const fn on_files<K: ValueKind<Of = FileOp>>(name: &'static str, about: &'static str, help: &'static str) -> Step {
    Step {
        name,
        about,
        help,
        on_files: true,
        of: K::TYPE,
        read: Some(|node, _| K::read(node).map(StepKind::File)),
        write: |kind| match kind {
            StepKind::File(op) => K::write(op).map(|value| (value, Vec::new())),
            _ => None,
        },
        names: |kind, each| {
            if let StepKind::File(op) = kind {
                K::names(op, each);
            }
        },
        ..Step::EMPTY
    }
}

pub(super) const CREATE: Step = on_files::<Create>(
    "create",
    "qemu-img create",
    "  create: {file, format, size, backing: {file, format}, cluster-size, compat, lazy-refcounts}\n",
);

pub(super) const WRITE: Step =
    on_files::<Write>("write", "qemu-io write", "  write: {file, format, pattern, offset, length}\n");

pub(super) const ZERO: Step = on_files::<Zero>("zero", "qemu-io write -z", "  zero: {file, format, offset, length}\n");

pub(super) const DISCARD: Step =
    on_files::<Discard>("discard", "qemu-io discard", "  discard: {file, format, offset, length}\n");

pub(super) const REBASE: Step = on_files::<Rebase>(
    "rebase",
    "qemu-img rebase -u",
    "  rebase: {file, backing: {file, format}}     names another backing file; `backing: null` for none\n",
);

pub(super) const CONTENT: Step = Step {
    seldom: 3,
    ..on_files::<Content>(
        "content",
        "a file as a recording found it",
        "  content: {file, size, data: [{at, hex, times}]}   a file as a recording found it\n",
    )
};

pub(super) const TEXT: Step =
    Step { seldom: 2, ..on_files::<TextFile>("text", "a text file", "  text: {file, content}\n") };

pub(super) const HOST: Step = on_files::<Host>(
    "host",
    "what the host refuses, and how fast its disk is: a full disk, a limit of a file, requests that fail",
    "  host: {capacity: SIZE}                      all files together take no more than that (ENOSPC); `none`: no bound
  host: {file, limit: SIZE}                   a file may be no longer (EFBIG); `none`: no bound
  host: {file, fail: REQUEST, errno, after, times}
                                              reads, writes, write-zeroes, discards, flushes or truncates of a file fail (`read`, `write`,
                                              `write-zeroes`, `discard`, `flush`, `truncate`), so many times, after so many went well;
                                              `fail: none`: none fails any more
  host: {file, size: SIZE}                    somebody else makes a file that long
  host: {disk: {bytes: SIZE, requests: N}}    the disk does so much in a second, one request after the other; `disk: none`: the time of a
                                              request does not depend on others
",
);

pub(super) const BYTES: Step = Step {
    seldom: 1,
    ..on_files::<ChangedBytes>(
        "bytes",
        "bytes of a file are changed",
        "  bytes: {file, at, hex}                      bytes of a file are changed\n",
    )
};

pub(super) const RESIZE: Step = on_files::<Resize>(
    "resize",
    "qemu-img resize",
    "  resize: {file, size}                        qemu-img resize, with --shrink where that is needed\n",
);

/// A line of words, or a list of them where one holds blanks.
#[derive(Clone, Copy, Debug)]
struct QemuImgLine;

/// What the simulated qemu-img has beside what steps of their own do.
pub(super) const COMMANDS: [&str; 4] = ["bitmap", "commit", "rebase", "resize"];

impl ValueKind for QemuImgLine {
    type Of = Vec<Arc<str>>;
    const TYPE: ValueType = ValueType::Or(&[ValueType::Text, ValueType::Texts]);

    fn read(node: &Node) -> Read<Vec<Arc<str>>> {
        let words = match &node.value {
            Value::Str(line) => line.split_whitespace().map(Arc::from).collect(),
            _ => node.texts()?,
        };
        match words.first() {
            Some(command) if COMMANDS.contains(&&**command) => Ok(words),
            first => {
                let found = first.map_or("nothing", |word| &**word);
                let expected = format!("expected `bitmap`, `commit`, `rebase` or `resize`, found `{found}`");
                Err(Fault::new(node.span, "this is no command of the simulated qemu-img", expected))
            }
        }
    }

    fn write(of: &Vec<Arc<str>>) -> Option<Yaml> {
        let plain = of.iter().all(|word| !word.is_empty() && !word.contains(char::is_whitespace));
        Some(if plain { Yaml::filled(&of.join(" ")) } else { Yaml::texts(of) })
    }
}

/// What is said beside a command of qemu-img: its exit status, and parts of what it prints and says.
type QemuImgEnd = (u64, Option<Arc<str>>, Option<Arc<str>>);

form! {
    /// What stands beside a command of qemu-img.
    BesideQemuImg: QemuImgEnd = "qemu-img" ((status, prints, says));
    status: def Count = 0, "its exit status; without: 0";
    prints: opt Text, "a part of what it must print on its standard output";
    says: opt Text, "a part of what it must say on its standard error";
}

pub(super) const QEMU_IMG: Step = Step {
    name: "qemu-img",
    about: "a command of qemu-img, as it is typed",
    help: "  qemu-img: LINE                              bitmap, commit, rebase or resize as they are typed; also a list of words
    status: 1                                 its exit status (without: 0)
    prints: TEXT                              a part of what it prints; `says: TEXT`: of what it says on standard error
",
    on_files: true,
    of: QemuImgLine::TYPE,
    beside: BesideQemuImg::MEMBERS,
    read: Some(|node, beside| {
        let words = QemuImgLine::read(node)?;
        let (status, prints, says) = BesideQemuImg::take(beside)?;
        Ok(StepKind::File(FileOp::QemuImg(QemuImg { words, status, prints, says })))
    }),
    write: |kind| match kind {
        StepKind::File(FileOp::QemuImg(QemuImg { words, status, prints, says })) => {
            let beside = BesideQemuImg::members(&(*status, prints.clone(), says.clone())).unwrap_or_default();
            Some((QemuImgLine::write(words)?, beside))
        }
        _ => None,
    },
    ..Step::EMPTY
};

pub(super) const CHECK: Step = on_files::<Check>(
    "check",
    "qemu-img check, and what it finds",
    "  check: {file, leaks, corruptions}           qemu-img check must find so many; without numbers: nothing\n",
);
