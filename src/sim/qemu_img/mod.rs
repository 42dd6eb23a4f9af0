//! `qemu-img bitmap`, `commit`, `rebase` and `resize` on the files of the simulated host (`qemu-img.c`).
//!
//! As the real one does, it opens images by the block layer and has its commands and jobs do the work ([`tool`]), so that what it does to an
//! image and what it says is what a process of QEMU would do and say.

mod command_line;
mod tool;

use crate::base::Json;
use crate::base::errno::Errno;
use crate::block::cvtnum::strtosz;
use crate::block::qcow2::Qcow2Call;
use crate::host::{Format, HostError, Image};
use crate::world::World;
use command_line::{Line, Opt, read};
use std::sync::Arc;
use tool::Tool;

/// What qemu-img printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ran {
    /// 0 or 1; `compare` and `check` have more.
    pub status: u64,
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub err: String,
}

/// Why a command ends before it has done its work: what is said, or what this one lacks.
enum Stop {
    Said(String),
    Lacks(String),
}

type Done<T = ()> = Result<T, Stop>;

fn said<T>(text: impl Into<String>) -> Done<T> {
    Err(Stop::Said(text.into()))
}

/// A message that is followed by where help is (`error_exit`).
fn usage<T>(command: &str, text: &str) -> Done<T> {
    said(format!("{text}\nTry 'qemu-img {command} --help' for more info"))
}

/// Runs a command of qemu-img beside the process of `world`, whose locks it meets.
///
/// # Errors
/// What the simulated one lacks.
pub(super) fn run(world: &mut World, words: &[Arc<str>]) -> Result<Ran, String> {
    let Some((command, rest)) = words.split_first() else { return Err("qemu-img: no command".to_owned()) };
    let mut ran = Ran::default();
    let done = match &**command {
        "bitmap" => bitmap(world, rest, &mut ran),
        "commit" => commit(world, rest, &mut ran),
        "rebase" => rebase(world, rest, &mut ran),
        "resize" => resize(world, rest, &mut ran),
        other => return Err(format!("not simulated: qemu-img {other}")),
    };
    match done {
        Ok(()) => {}
        Err(Stop::Said(text)) => {
            ran.status = 1;
            // getopt's own messages begin with the name of the command.
            let name = if text.starts_with("qemu-img ") { "" } else { "qemu-img: " };
            ran.err.push_str(&format!("{name}{text}\n"));
        }
        Err(Stop::Lacks(name)) => return Err(format!("not simulated: {name}")),
    }
    Ok(ran)
}

/// The image that a command works on; `None` for words that the command does not take.
pub(super) fn image(words: &[Arc<str>]) -> Option<String> {
    let (command, rest) = words.split_first()?;
    let (known, rest) = match &**command {
        "bitmap" => (BITMAP, rest),
        "commit" => (COMMIT, rest),
        "rebase" => (REBASE, rest),
        "resize" => (RESIZE, rest.split_last()?.1),
        _ => return None,
    };
    read(command, known, rest).ok()?.operands.into_iter().next()
}

/// `img_open`: the format that is given, or that its first bytes tell; of a raw image that was not called so, a warning is said.
fn format_of(world: &World, file: &str, given: Option<&str>, ran: &mut Ran) -> Done<Format> {
    match given {
        Some(name) => match Format::from_name(name) {
            Some(format) => Ok(format),
            None => Err(Stop::Lacks(format!("qemu-img -f {name}"))),
        },
        None => {
            let format = world.files.probe(file).unwrap_or(Format::Raw);
            if format == Format::Raw && world.files.get(file).is_some() {
                ran.err.push_str(&format!(
                    "WARNING: Image format was not specified for '{file}' and probing guessed raw.\n         \
                     Automatically detecting the format is dangerous for raw images, write operations on block 0 will be \
                     restricted.\n         Specify the 'raw' format explicitly to remove the restrictions.\n"
                ));
            }
            Ok(format)
        }
    }
}

/// Opens an image as the node `img`.
fn open(tool: &mut Tool<'_>, file: &str, format: Format, backing: bool) -> Done {
    let opened = tool.open("img", file, format, backing, false);
    opened.map_err(|text| Stop::Said(format!("Could not open '{file}': {text}")))
}

const BITMAP: &[Opt] = &[
    Opt::flag("add"),
    Opt::flag("remove"),
    Opt::flag("clear"),
    Opt::flag("enable"),
    Opt::flag("disable"),
    Opt::value("merge"),
    Opt::value("g granularity"),
    Opt::value("b source-file"),
    Opt::value("F source-format"),
    Opt::value("f"),
];

/// `img_bitmap`
fn bitmap(world: &mut World, words: &[Arc<str>], ran: &mut Ran) -> Done {
    let line = read("bitmap", BITMAP, words)?;
    let granularity = match line.value("g") {
        Some(text) => match strtosz(text) {
            Ok(n) if i64::try_from(n).is_ok() => Some(n),
            _ => return said(format!("Invalid granularity specified: '{text}'.")),
        },
        None => None,
    };
    let actions: Vec<_> = line
        .options
        .iter()
        .filter(|(name, _)| matches!(*name, "add" | "remove" | "clear" | "enable" | "disable" | "merge"))
        .collect();
    if actions.is_empty() {
        return said("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if granularity.is_some_and(|n| n > 0) && !line.has("add") {
        return said("granularity only supported with --add");
    }
    let (source, source_format) = (line.value("b"), line.value("F"));
    if source_format.is_some() && source.is_none() {
        return said("-F only supported with -b");
    }
    if source.is_some() && !line.has("merge") {
        return said("Merge bitmap source file only supported with --merge");
    }
    let [file, bitmap] = &line.operands[..] else { return said("Expecting filename and bitmap name") };
    let format = format_of(world, file, line.value("f"), ran)?;
    let source = match source {
        Some(source) => Some((source, format_of(world, source, source_format, ran)?)),
        None => None,
    };
    let mut tool = Tool::start(world);
    open(&mut tool, file, format, false)?;
    if let Some((source, format)) = source {
        let opened = tool.open("src", source, format, false, true);
        opened.map_err(|text| Stop::Said(format!("Could not open '{source}': {text}")))?;
    }
    for (action, value) in actions {
        let mut arguments = vec![("node", "img".into())];
        let name = match *action {
            "merge" => "target",
            _ => "name",
        };
        arguments.push((name, Json::str(bitmap)));
        if *action == "add" {
            arguments.push(("persistent", true.into()));
            arguments.extend(granularity.filter(|n| *n > 0).map(|n| ("granularity", Json::uint(n))));
        }
        if let Some(merged) = value {
            let node = if source.is_some() { "src" } else { "img" };
            let merged = Json::dict(vec![("node", node.into()), ("name", Json::str(merged))]);
            arguments.push(("bitmaps", Json::list(vec![merged])));
        }
        if let Err(text) = tool.ask(&format!("block-dirty-bitmap-{action}"), arguments) {
            // The node has a name that the real one makes up.
            let text = text.replace(" img:", " #block0:");
            let hint = match text.ends_with("is inconsistent and cannot be used") {
                true => "\nTry block-dirty-bitmap-remove to delete this bitmap from disk",
                false => "",
            };
            return said(format!("Operation {action} on bitmap {bitmap} failed: {text}{hint}"));
        }
    }
    Ok(())
}

const COMMIT: &[Opt] = &[Opt::flag("q"), Opt::flag("d"), Opt::value("b"), Opt::value("f")];

/// `img_commit`
fn commit(world: &mut World, words: &[Arc<str>], ran: &mut Ran) -> Done {
    let line = read("commit", COMMIT, words)?;
    let [file] = &line.operands[..] else { return usage("commit", "Expecting one image file name") };
    let format = format_of(world, file, line.value("f"), ran)?;
    let mut tool = Tool::start(world);
    open(&mut tool, file, format, true)?;
    // What it is based on, by the names that it has for them.
    let below = tool.backing_files(file, format);
    let base = match line.value("b") {
        Some(base) if below.iter().any(|name| *name == base) => base.to_owned(),
        Some(base) => return said(format!("Did not find '{base}' in the backing chain of '{file}'")),
        None => match below.first() {
            Some(base) => base.clone(),
            None => return said("Image does not have a backing file"),
        },
    };
    tool.commit(&base).map_err(Stop::Said)?;
    drop(tool);
    if !line.has("d") && line.value("b").is_none() {
        // `blk_make_empty`
        let emptied = Image::open(&mut world.files, file, Some(format), true).and_then(|mut image| {
            let emptied = image.drive(&mut world.files, Qcow2Call::make_empty());
            image.close(&mut world.files);
            emptied.map_err(|fault| HostError { path: file.clone(), fault })
        });
        match emptied {
            Err(error) if error.fault.errno != Errno::ENOTSUP => {
                return said(format!("Could not empty {file}: {}", error.fault));
            }
            _ => {}
        }
    }
    if !line.has("q") {
        ran.out.push_str("Image committed.\n");
    }
    Ok(())
}

/// Formats of images that the real one knows besides.
const OTHER_FORMATS: [&str; 12] =
    ["bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "vvfat"];

const REBASE: &[Opt] = &[Opt::flag("q"), Opt::flag("u"), Opt::value("b"), Opt::value("F"), Opt::value("f")];

/// `img_rebase`
fn rebase(world: &mut World, words: &[Arc<str>], ran: &mut Ran) -> Done {
    let line = read("rebase", REBASE, words)?;
    let (unsafe_, backing, backing_format) = (line.has("u"), line.value("b"), line.value("F"));
    let [file] = &line.operands[..] else { return usage("rebase", "Expecting one image file name") };
    if !unsafe_ && backing.is_none() {
        return usage("rebase", "Must specify backing file (-b) or use unsafe mode (-u)");
    }
    let format = format_of(world, file, line.value("f"), ran)?;
    let mut tool = Tool::start(world);
    open(&mut tool, file, format, !unsafe_)?;
    match backing_format {
        Some(name) if Format::from_name(name).is_some() => {}
        Some(name) if OTHER_FORMATS.contains(&name) => {
            return Err(Stop::Lacks(format!("qemu-img rebase -F {name}")));
        }
        Some(name) => return said(format!("Invalid format name: '{name}'")),
        None => {}
    }
    let new = backing.filter(|name| !name.is_empty());
    if let Some(new) = new
        && !unsafe_
        && !tool.backing_files(file, format).iter().any(|name| *name == new)
    {
        let format = backing_format.and_then(Format::from_name);
        let format = format.unwrap_or_else(|| tool.probe(new));
        let opened = tool.open("new", new, format, true, true);
        opened.map_err(|text| Stop::Said(format!("Could not open new backing file '{new}': {text}")))?;
    }
    drop(tool);
    let done = match unsafe_ {
        true => world.files.rebase_unsafe(file, new, backing_format),
        false => world.files.rebase(file, new, backing_format),
    };
    let named = backing.unwrap_or("(null)");
    done.or_else(|error| match error.fault.errno {
        Errno::ENOSPC => {
            said(format!("Could not change the backing file to '{named}': No space left in the file header"))
        }
        Errno::EINVAL if backing.is_some() && backing_format.is_none() => {
            said(format!("Could not change the backing file to '{named}': backing format must be specified"))
        }
        errno => said(format!("Could not change the backing file to '{named}': {errno}")),
    })
}

const RESIZE: &[Opt] = &[Opt::flag("q"), Opt::flag("shrink"), Opt::value("f")];

/// `img_resize`
fn resize(world: &mut World, words: &[Arc<str>], ran: &mut Ran) -> Done {
    // The size stands last, so that it may begin with a minus.
    let line = match words.split_last() {
        Some((size, words)) if !words.is_empty() => {
            let mut line = read("resize", RESIZE, words)?;
            line.operands.push(size.to_string());
            line
        }
        _ => Line::default(),
    };
    let [file, size] = &line.operands[..] else { return usage("resize", "Expecting image file name and size") };
    let (sign, digits) = match size.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => (0, size.as_str()),
    };
    let Ok(n) = strtosz(digits) else {
        return said(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, \
             mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        );
    };
    let format = format_of(world, file, line.value("f"), ran)?;
    let mut tool = Tool::start(world);
    open(&mut tool, file, format, true)?;
    let current = tool.size();
    let total = match sign {
        0 => i128::from(n),
        sign => i128::from(current) + i128::from(n) * sign,
    };
    let Some(total) = u64::try_from(total).ok().filter(|total| *total > 0) else {
        return said("New image size must be positive");
    };
    if total < current && !line.has("shrink") {
        let warning = "qemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing \
                       such an operation, make sure there is no important data there.";
        return said(format!("Use the --shrink option to perform a shrink operation.\n{warning}"));
    }
    let arguments = vec![("node-name", "img".into()), ("size", Json::uint(total))];
    tool.ask("block_resize", arguments).map_err(Stop::Said)?;
    if !line.has("q") {
        ran.out.push_str("Image resized.\n");
    }
    Ok(())
}
