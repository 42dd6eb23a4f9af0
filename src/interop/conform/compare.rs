//! What differs between a program's two runs.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "images are compared by qemu-img, in real files"
)]

use super::super::carry::Carried;
use super::super::nbd::NO_ANSWER;
use super::super::qemu::Ending;
use super::super::quote::file_name;
use super::super::{Trouble, files, trouble};
use super::model::Modelled;
use crate::base::Json;
use crate::sim::outcome::{Outcome, StepAt};
use crate::trace::canonical;
use crate::trace::compare::{ClientLine, Difference, first_difference};
use crate::validate::target::timeless;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A difference, in one of the things that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differs {
    /// In what: `end`, `trace`, `console`, `content of t0.img`, …
    pub what: String,
    /// How, with both sides.
    pub how: String,
}

/// How the two ended.
#[must_use]
pub fn ending(real: &Carried, model: &Modelled) -> Option<Differs> {
    let differs = |how: String| Some(Differs { what: "end".to_owned(), how });
    if let (Outcome::Failed { at: None, reason }, true) = (&model.outcome, real.version.is_empty()) {
        if real.stderr.contains(reason.as_str()) {
            return None;
        }
        return differs(format!("QEMU does not start: {}\nthe model: {reason}", real.stderr.trim()));
    }
    if real.version.is_empty() {
        return differs(format!("QEMU does not start: {}\nthe model: {}", real.stderr.trim(), model.outcome));
    }
    let crash = match &real.ending {
        Some(Ending::Killed(signal)) => Some(format!("QEMU ended by {signal}: {}", real.stderr.trim())),
        Some(Ending::Hung) => Some("QEMU hangs".to_owned()),
        _ => None,
    };
    let stuck = real.stuck.as_ref().map(|(step, what)| format!("step {}: {what}", step + 1));
    match (&model.outcome, crash, stuck) {
        (Outcome::Passed, None, None) => None,
        (Outcome::Stuck { .. }, Some(_), Some(_)) => None,
        // Both wait for what the scenario expects and neither sends: a job that is ready wakes up for ever and meets a limit.
        (Outcome::Stuck { at, waits } | Outcome::Limit { at, waits, .. }, None, Some(_))
            if waits_alike(real, waits) || nbd_waits_alike(real, at.as_ref()) =>
        {
            None
        }
        (outcome, crash, stuck) => {
            let alive = crash.is_none();
            let real = [crash, stuck].into_iter().flatten().collect::<Vec<_>>().join(", ");
            let unmet = " (QEMU is at rest and answers: what the scenario expects fails there)";
            let real = match (real.is_empty(), alive) {
                (true, _) => "QEMU ended well".to_owned(),
                (false, true) => real + unmet,
                (false, false) => real,
            };
            differs(format!("{real}\nthe model: {outcome}"))
        }
    }
}

/// Whether the model's client waits for the event that did not come from QEMU either.
fn waits_alike(real: &Carried, waits: &[String]) -> bool {
    let event = |what: &str| Some(what.strip_prefix("the event ")?.strip_suffix(" did not come")?.to_owned());
    let missing = real.stuck.as_ref().and_then(|(_, what)| event(what));
    missing.is_some_and(|event| waits.iter().any(|wait| wait.contains(&event)))
}

/// Whether the same step waits for an answer of the NBD server, here and there.
fn nbd_waits_alike(real: &Carried, at: Option<&StepAt>) -> bool {
    let (Some((step, what)), Some(at)) = (&real.stuck, at) else { return false };
    *step == at.step as usize && what == NO_ANSWER
}

/// The first answer to an NBD client that differs.
#[must_use]
pub fn answers(real: &Carried, model: &Modelled) -> Option<Differs> {
    let (ours, theirs) = (&model.answers, real.answers.as_ref()?);
    let at = (0..ours.len().max(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at))?;
    let shown = |of: &[String]| of.get(at).map_or("(none)".to_owned(), |answer| answer.chars().take(300).collect());
    let how = format!("answer {}: QEMU gave\n  {}\nthe model\n  {}", at + 1, shown(theirs), shown(ours));
    Some(Differs { what: "answers over NBD".to_owned(), how })
}

/// The first line of the trace that differs.
#[must_use]
pub fn trace(real: &Carried, model: &Modelled) -> Option<Differs> {
    let difference = first_difference(&real.lines, &model.lines)?;
    Some(Differs { what: "trace".to_owned(), how: brief(&difference) })
}

/// A difference, with the values at its place instead of whole lines where it lies deep in them.
#[must_use]
pub fn brief(difference: &Difference) -> String {
    let whole = format!("line {}", difference.index + 1);
    let side = |line: &Option<ClientLine>| match line {
        None => "(the end)".to_owned(),
        Some(line) => {
            let json = line.json();
            let mut at = &json;
            for step in difference.path.split(['.', '[']).filter(|step| !step.is_empty()) {
                let next = match step.strip_suffix(']') {
                    Some(index) => index.parse().ok().and_then(|i: usize| at.as_list().and_then(|list| list.get(i))),
                    None => at.get(step),
                };
                match next {
                    Some(next) => at = next,
                    None => break,
                }
            }
            let text = canonical::to_string(at);
            if text.len() < 20 || difference.path.is_empty() {
                line.to_string().chars().take(400).collect()
            } else {
                text
            }
        }
    };
    let deep = |line: &Option<ClientLine>| line.as_ref().is_some_and(|line| line.to_string().len() > 400);
    let (a, b) = (side(&difference.a), side(&difference.b));
    let shown = match deep(&difference.a) || deep(&difference.b) {
        true => format!("{whole}, at {}", difference.path),
        false => whole,
    };
    format!("{shown}:\n  QEMU:  {a}\n  model: {b}")
}

/// What `qemu-io` printed, without times and rates.
#[must_use]
pub fn console(real: &Carried, model: &Modelled) -> Option<Differs> {
    let theirs = timeless(&real.stdout);
    // What the model prints on either stream stands in one order.
    let errors: Vec<String> = timeless(&real.stderr).iter().map(|line| message(line).to_owned()).collect();
    let ours: Vec<String> = timeless(&model.console);
    let ours: Vec<String> = ours.into_iter().filter(|line| !errors.iter().any(|e| e == message(line))).collect();
    if ours == theirs {
        return None;
    }
    let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    let show = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(the end)".to_owned());
    Some(Differs {
        what: "console".to_owned(),
        how: format!("line {}:\n  QEMU: {}\n  model: {}", at + 1, show(&theirs), show(&ours)),
    })
}

/// A line of standard error without the program's name.
fn message(line: &str) -> &str {
    line.split_once(": ").filter(|(program, _)| program.starts_with("qemu-system")).map_or(line, |(_, rest)| rest)
}

/// Every image, as `qemu-img` reads it: the real ones stand in `dir`, the model's are written to `ours`.
///
/// # Errors
/// If `qemu-img` cannot be run.
pub fn images(real: &Carried, dir: &Path, model: &Modelled, ours: &Path) -> Result<Vec<Differs>, Trouble> {
    let mut found = Vec::new();
    fs::create_dir_all(ours).map_err(|error| trouble("a directory", &error))?;
    files::export(&model.files, ours)?;
    let (theirs, models) = (files::names(dir)?, files::names(ours)?);
    if real.version.is_empty() {
        return Ok(found);
    }
    if theirs != models {
        let how = format!("QEMU left {}\nthe model {}", theirs.join(" "), models.join(" "));
        found.push(Differs { what: "files".to_owned(), how });
    }
    for name in theirs.iter().filter(|name| models.contains(name)) {
        let read = |dir: &Path| fs::read(dir.join(name)).map_err(|error| trouble(name, &error));
        let (a, b) = (read(dir)?, read(ours)?);
        if a == b {
            continue;
        }
        found.extend(image(name, dir, ours, a.starts_with(b"QFI\xfb"))?);
    }
    Ok(found)
}

/// An image whose bytes differ may still be the same to a reader.
fn image(name: &str, dir: &Path, ours: &Path, qcow2: bool) -> Result<Option<Differs>, Trouble> {
    let format = if qcow2 { "qcow2" } else { "raw" };
    let (a, b) = (dir.join(name), ours.join(name));
    let compare = || -> Result<Option<String>, Trouble> {
        let mut compare = qemu_img();
        compare.args(["compare", "-U"]).args(["-f", format, "-F", format]).args([&a, &b]);
        let output = compare.output().map_err(|error| trouble("qemu-img", &error))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((!output.status.success()).then(|| text.trim().to_owned()))
    };
    if let Some(how) = compare()? {
        // A backing file may be named as seen from the working directory, and with the faults that its node had: then nobody can
        // read through it, and what counts is the image alone.
        let whole = (flat(name, dir, false)?, flat(name, ours, false)?);
        let both = match whole {
            (None, None) if qcow2 => (flat(name, dir, true)?, flat(name, ours, true)?),
            whole => whole,
        };
        if both.0.is_none() || both.0 != both.1 {
            return Ok(Some(Differs { what: format!("content of {name}"), how }));
        }
    }
    // Which blocks of a raw file the host allocates is the host's matter.
    if qcow2 {
        let (theirs, models) = (map(&a)?, map(&b)?);
        if let Some(at) = (0..theirs.len().max(models.len())).find(|at| theirs.get(*at) != models.get(*at)) {
            let show = |part: Option<&String>| part.cloned().unwrap_or_else(|| "(the end)".to_owned());
            let how = format!("QEMU:  {}\nmodel: {}", show(theirs.get(at)), show(models.get(at)));
            return Ok(Some(Differs { what: format!("allocation of {name}"), how }));
        }
    }
    if qcow2 {
        let bitmaps = |path: &Path| -> Result<String, Trouble> {
            let output = qemu_img().args(["info", "-U", "--output=json"]).arg(path).output();
            let output = output.map_err(|error| trouble("qemu-img", &error))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let json = crate::trace::canonical::parse(&text).unwrap_or(crate::base::Json::Null);
            let data = json.get("format-specific").and_then(|f| f.get("data"));
            let bitmaps = data.and_then(|d| d.get("bitmaps")).cloned().unwrap_or(crate::base::Json::Null);
            Ok(crate::trace::canonical::to_string(&bitmaps))
        };
        let (theirs, models) = (bitmaps(&a)?, bitmaps(&b)?);
        if theirs != models {
            let how = format!("QEMU: {theirs}\nmodel: {models}");
            return Ok(Some(Differs { what: format!("stored bitmaps of {name}"), how }));
        }
    }
    Ok(None)
}

/// What `qemu-img map` says of an image: which parts are there, without where they stand in the file.
fn map(path: &Path) -> Result<Vec<String>, Trouble> {
    let output = qemu_img().args(["map", "-U", "--output=json", "-f", "qcow2"]).arg(path).output();
    let output = output.map_err(|error| trouble("qemu-img", &error))?;
    let json = canonical::parse(&String::from_utf8_lossy(&output.stdout)).unwrap_or(Json::Null);
    let mut parts: Vec<(u64, u64, String)> = Vec::new();
    for part in json.as_list().unwrap_or_default() {
        let number = |name: &str| part.get(name).and_then(Json::as_u64).unwrap_or(0);
        // Which blocks of a cluster with data the host allocates is the host's matter: unwritten ones count as zeroes until their pages
        // are read.
        let hole = |name: &&&str| **name == "zero" && part.get("data") == Some(&Json::Bool(true));
        let flags = ["depth", "present", "zero", "data", "compressed"];
        let flags = flags.iter().filter(|name| !hole(name));
        let flags = flags.filter_map(|name| part.get(name).map(|v| format!("{name} {}", canonical::to_string(v))));
        let flags = flags.collect::<Vec<_>>().join(", ");
        match parts.last_mut() {
            Some(last) if last.2 == flags && last.1 == number("start") => last.1 += number("length"),
            _ => parts.push((number("start"), number("start") + number("length"), flags)),
        }
    }
    Ok(parts.into_iter().map(|(from, to, flags)| format!("{from}..{to}: {flags}")).collect())
}

/// qemu-img, which may open few files: a backing file that is the image itself is opened again and again, until there are no more
/// descriptors.
fn qemu_img() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec qemu-img \"$@\"", "qemu-img"]);
    command
}

/// The content of an image as `qemu-img convert` reads it in its own directory; `alone`: without what is behind it.
fn flat(name: &str, dir: &Path, alone: bool) -> Result<Option<Vec<u8>>, Trouble> {
    let raw = dir.join("flat.raw");
    let mut convert = qemu_img();
    convert.args(["convert", "-U", "-O", "raw"]).current_dir(dir);
    match alone {
        true => convert.args([
            "--image-opts",
            &format!("driver=qcow2,file.driver=file,file.filename={},backing=", name.replace(',', ",,")),
        ]),
        false => convert.arg(file_name(name)),
    };
    convert.arg("flat.raw");
    let output = convert.output().map_err(|error| trouble("qemu-img", &error))?;
    let content = output.status.success().then(|| fs::read(&raw).unwrap_or_default());
    let _ = fs::remove_file(raw);
    Ok(content)
}
