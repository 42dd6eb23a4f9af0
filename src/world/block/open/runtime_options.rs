//! The options of a node that is open (`bs->options`, `bs->explicit_options`), which decide what it becomes when it is opened again.

use super::spec::DriverSpec;
use super::strong_options::flatten;
use crate::base::Json;
use crate::qmp::hash_order::wire_order;
use crate::qmp::types::{BlockdevOptions, DetectZeroes as DetectZeroesOption, DiscardOption};
use crate::quirk::Quirks;
use crate::version::changes::Change;
use crate::world::block::driver::Driver;
use crate::world::block::graph::{DetectZeroes, OpenFlags};
use std::sync::Arc;

/// A size below zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WrongSize {
    key: Arc<str>,
    number: i64,
}

impl WrongSize {
    /// What the driver says of it instead of opening.
    #[must_use]
    pub fn text(&self, quirks: Quirks) -> Arc<str> {
        let WrongSize { key, number } = self;
        match quirks.since(Change::SizesBelowZero) {
            true => format!("Value '{number}' is out of range for parameter '{key}'").into(),
            false => format!("Parameter '{key}' expects a non-negative number below 2^64").into(),
        }
    }
}

/// Options of a node: those that all drivers have, and its driver's own. `None` is absent, which differs from the default where a
/// child inherits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuntimeOptions {
    /// `read-only`
    pub read_only: Option<bool>,
    /// `auto-read-only`
    pub auto_read_only: Option<bool>,
    /// `cache.direct`
    pub direct: Option<bool>,
    /// `cache.no-flush`
    pub no_flush: Option<bool>,
    /// `discard=unmap`
    pub unmap: Option<bool>,
    /// `detect-zeroes`
    pub detect_zeroes: Option<DetectZeroes>,
    /// All others, flat, without those of children, as they were given.
    pub own: Json,
}

/// Those of [`RuntimeOptions`] that have a member.
const GENERIC: [&str; 6] =
    ["read-only", "auto-read-only", "cache.direct", "cache.no-flush", "discard", "detect-zeroes"];

/// Children, which have options of their own.
const CHILDREN: [&str; 7] = ["file", "image", "backing", "target", "raw", "test", "children"];

impl Default for RuntimeOptions {
    fn default() -> RuntimeOptions {
        let (read_only, auto_read_only, direct, no_flush, unmap) = (None, None, None, None, None);
        let (detect_zeroes, own) = (None, Json::empty());
        RuntimeOptions { read_only, auto_read_only, direct, no_flush, unmap, detect_zeroes, own }
    }
}

impl RuntimeOptions {
    /// What was said of a node in so many words.
    #[must_use]
    pub fn explicit(options: &BlockdevOptions) -> RuntimeOptions {
        let cache = options.cache.unwrap_or_default();
        let mut flat = Vec::new();
        flatten(&options.given, "", &mut flat);
        flat.retain(|(key, _)| !GENERIC.contains(&&**key) && !is_childs(key));
        // What was given as text has its type once it was read.
        for (key, value) in &mut flat {
            match (&**key, options.force_share, options.active) {
                ("force-share", Some(on), _) | ("active", _, Some(on)) => *value = Json::Bool(on),
                _ => {}
            }
        }
        RuntimeOptions {
            read_only: options.read_only,
            auto_read_only: options.auto_read_only,
            direct: cache.direct,
            no_flush: cache.no_flush,
            unmap: options.discard.map(|discard| discard == DiscardOption::Unmap),
            detect_zeroes: options.detect_zeroes.map(|detect| match detect {
                DetectZeroesOption::Off => DetectZeroes::Off,
                DetectZeroesOption::On => DetectZeroes::On,
                DetectZeroesOption::Unmap => DetectZeroes::Unmap,
            }),
            own: Json::Dict(Arc::new(flat)),
        }
    }

    /// What [`RuntimeOptions::explicit`] gave its type is text again.
    pub(super) fn leave_as_text(&mut self) {
        let mut own = members(&self.own).to_vec();
        for (_, value) in own.iter_mut().filter(|(key, _)| matches!(&**key, "force-share" | "active")) {
            if let Json::Bool(on) = value {
                *value = if *on { "on" } else { "off" }.into();
            }
        }
        self.own = Json::Dict(Arc::new(own));
    }

    /// Those of a node that was just opened: flags have become options (`update_options_from_flags`).
    #[must_use]
    pub fn opened(explicit: &RuntimeOptions, flags: OpenFlags) -> RuntimeOptions {
        RuntimeOptions {
            read_only: Some(!flags.rdwr),
            auto_read_only: Some(flags.auto_read_only),
            direct: Some(flags.nocache),
            no_flush: Some(flags.no_flush),
            unmap: explicit.unmap.or(flags.unmap.then_some(true)),
            ..explicit.clone()
        }
    }

    /// `bdrv_join_options`: what is absent is as in the others.
    pub fn join(&mut self, old: &RuntimeOptions) {
        self.read_only = self.read_only.or(old.read_only);
        self.auto_read_only = self.auto_read_only.or(old.auto_read_only);
        self.direct = self.direct.or(old.direct);
        self.no_flush = self.no_flush.or(old.no_flush);
        self.unmap = self.unmap.or(old.unmap);
        self.detect_zeroes = self.detect_zeroes.or(old.detect_zeroes);
        let mut own = members(&self.own).to_vec();
        let missing = members(&old.own).iter().filter(|(key, _)| self.own.get(key).is_none());
        own.extend(missing.cloned());
        self.own = Json::Dict(Arc::new(own));
    }

    /// `bdrv_inherited_options`: what a child has from its parent where it says nothing.
    pub fn inherit(&mut self, parent: &RuntimeOptions, backing: bool) {
        self.direct = self.direct.or(parent.direct);
        self.no_flush = self.no_flush.or(parent.no_flush);
        if backing {
            self.read_only = self.read_only.or(Some(true));
            self.auto_read_only = self.auto_read_only.or(Some(false));
        } else {
            self.read_only = self.read_only.or(parent.read_only);
            self.auto_read_only = self.auto_read_only.or(parent.auto_read_only);
        }
        self.unmap = self.unmap.or(Some(true));
    }

    /// `update_flags_from_options`, and `discard`, which `bdrv_reopen_prepare` reads.
    #[must_use]
    pub fn flags(&self, before: OpenFlags) -> OpenFlags {
        OpenFlags {
            rdwr: !self.read_only.unwrap_or(false),
            auto_read_only: self.auto_read_only.unwrap_or(false),
            nocache: self.direct.unwrap_or(false),
            no_flush: self.no_flush.unwrap_or(false),
            unmap: self.unmap.unwrap_or(before.unmap),
            ..before
        }
    }

    /// `bdrv_reset_options_allowed`: an option that was given, is not any more, and has no default to go back to. `active` has been read
    /// and taken away by then, whether it is given again or not.
    #[must_use]
    pub fn cannot_reset(&self, new: &RuntimeOptions, driver: &Driver) -> Option<Arc<str>> {
        let old = members(&self.own);
        let lost = |key: &str| {
            let missing = key == "active" || new.own.get(key).is_none();
            missing && key != "node-name" && !driver.row().mutable_opts.has(key)
        };
        wire_order(old).into_iter().map(|i| &old[i].0).find(|key| lost(key)).cloned()
    }

    /// The first option that differs from those of the open node and may not (the end of `bdrv_reopen_prepare`).
    #[must_use]
    /// `left` is what nobody took.
    pub fn cannot_change(&self, new: &RuntimeOptions, driver: &Driver, left: &[(Arc<str>, Json)]) -> Option<Arc<str>> {
        let given = members(&new.own);
        let differs = |(key, value): &&(Arc<str>, Json)| self.differs(driver, key, value);
        let mut wrong: Vec<_> = given.iter().filter(differs).cloned().collect();
        wrong.extend_from_slice(left);
        wire_order(&wrong).first().map(|&i| wrong[i].0.clone())
    }

    /// Options that are kept and yet count as changed: a list of options has read them, and the texts that it gives back are no numbers or
    /// truth values, which they were (see the remark at the end of `bdrv_reopen_prepare`).
    pub(super) fn changed_by_keeping(&self, driver: &Driver) -> Vec<(Arc<str>, Json)> {
        let changed = |(key, value): &&(Arc<str>, Json)| {
            !driver.row().mutable_opts.has(key) && as_compared(driver, key, value) != *value
        };
        members(&self.own).iter().filter(changed).cloned().collect()
    }

    /// Whether an option may not change and does.
    pub(super) fn differs(&self, driver: &Driver, key: &str, value: &Json) -> bool {
        !driver.row().mutable_opts.has(key) && self.now(driver, key) != Some(as_compared(driver, key, value))
    }

    /// Whether there are options that the driver takes when it is opened again.
    pub(super) fn changes_driver(&self, driver: &Driver) -> bool {
        members(&self.own).iter().any(|(key, _)| driver.row().mutable_opts.has(key))
    }

    /// The value that an option of an open node has.
    fn now(&self, driver: &Driver, key: &str) -> Option<Json> {
        match (key, driver.file()) {
            ("driver", _) => Some(driver.format_name().into()),
            ("filename", Some(file)) => Some(Json::Str(file.filename.clone())),
            _ => self.own.get(key).cloned(),
        }
    }

    /// The first number that its driver does not take as a size (`parse_option_size`).
    #[must_use]
    pub fn out_of_range(&self, driver: &DriverSpec) -> Option<WrongSize> {
        let own = members(&self.own);
        let is_size = |key: &str| match driver {
            DriverSpec::Raw { .. } => matches!(key, "offset" | "size"),
            DriverSpec::Qcow2 { .. } => key.ends_with("cache-size") || key == "l2-cache-entry-size",
            DriverSpec::Blkdebug { .. } => {
                matches!(
                    key,
                    "align" | "max-transfer" | "opt-write-zero" | "max-write-zero" | "opt-discard" | "max-discard"
                )
            }
            _ => false,
        };
        let wrong = |key: &str| self.number(key).filter(|number| is_size(key) && *number < 0);
        let mut found = wire_order(own).into_iter().filter_map(|i| Some((&own[i].0, wrong(&own[i].0)?)));
        let (key, number) = found.next()?;
        Some(WrongSize { key: (*key).clone(), number })
    }

    /// A number as `qemu_opt_get_number` has it: one below zero is a large one.
    #[must_use]
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        self.number(key).map(i64::cast_unsigned)
    }

    fn number(&self, key: &str) -> Option<i64> {
        match self.own.get(key)? {
            Json::Str(text) => text.parse().ok(),
            Json::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// An empty list or dictionary, which is not taken apart, so that no driver takes it (`qdict_flatten`); the first one that QEMU
    /// names.
    #[must_use]
    pub fn empty(options: &BlockdevOptions) -> Option<Arc<str>> {
        let mut flat = Vec::new();
        flatten(&options.given, "", &mut flat);
        flat.retain(|(key, value)| {
            let empty = match value {
                Json::Dict(members) => members.is_empty(),
                Json::List(items) => items.is_empty(),
                _ => false,
            };
            empty && !is_childs(key)
        });
        wire_order(&flat).first().map(|&i| flat[i].0.clone())
    }
}

fn members(dict: &Json) -> &[(Arc<str>, Json)] {
    dict.as_dict().unwrap_or_default()
}

fn is_childs(key: &str) -> bool {
    CHILDREN.iter().any(|child| key.strip_prefix(child).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The value of an option as it is when it is compared: where a list of options has read it, it is text (`qemu_opts_to_qdict`).
fn as_compared(driver: &Driver, key: &str, value: &Json) -> Json {
    let read = driver.row().options_are_text || matches!(key, "force-share" | "active");
    match value {
        Json::Bool(on) if read => if *on { "on" } else { "off" }.into(),
        Json::Int(number) if read => Json::str(&number.to_string()),
        value => value.clone(),
    }
}
