//! File names of nodes (`block.c:bdrv_refresh_filename`).

use crate::base::Json;
use crate::qmp::print::{MemberOrder, to_text};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::Driver;
use std::sync::Arc;

/// `PATH_MAX`: a longer `json:` name is cut off.
const PATH_MAX: usize = 4096;

/// What describes a node in place of its name.
#[derive(Clone, Debug)]
struct Names {
    /// `exact_filename`: a name that opens the same tree; empty where there is none.
    pub exact: Arc<str>,
    /// `filename`: the exact one, or else `json:` and the options.
    pub filename: Arc<str>,
    /// `full_open_options`
    pub options: Json,
}

/// What `bdrv_refresh_filename` has to say of a node.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The child whose name makes that of the node (`bdrv_primary_child`).
    pub below: Option<NodeId>,
    /// Options that were given beside those of children.
    pub given: &'a [(Arc<str>, Json)],
    /// Its backing file is another one than the image names.
    pub overridden: bool,
}

impl Described<'_> {
    /// Whether a name without options says all.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.given.is_empty() && !self.overridden
    }
}

/// A name that a driver has put together; one that is too long is none.
#[must_use]
pub fn filename(text: String) -> Arc<str> {
    if text.len() >= PATH_MAX { "".into() } else { text.into() }
}

impl World {
    /// `bs->filename`, as messages and image headers give it.
    #[must_use]
    pub(in crate::world) fn filename_of(&self, node: NodeId) -> Arc<str> {
        self.names_of(node).filename
    }

    /// The host file that holds a node's data, where that is one.
    #[must_use]
    pub(in crate::world) fn host_path(&self, node: NodeId) -> Option<Arc<str>> {
        let n = &self.graph.nodes[node];
        match n.file_driver() {
            Some(file) => Some(file.path.clone()),
            None => self.graph.primary_child(node).and_then(|c| self.host_path(self.graph.bs(c))),
        }
    }

    /// The hint that stands behind the message of a lock that another one has (`raw_check_lock_bytes`). `said` is what was asked for: of
    /// several files that are locked, it is one that stands there, or one below what stands there.
    #[must_use]
    pub fn lock_hint(&self, text: &str, said: &str) -> Option<String> {
        if !text.ends_with("\" lock") {
            return None;
        }
        let word = |c: char| !(c.is_alphanumeric() || "#._-/".contains(c));
        let node = |word: &str| {
            self.graph.find_node(word).or_else(|| self.graph.blk_by_name(word).and_then(|blk| self.graph.blk_bs(blk)))
        };
        let below = || said.split(word).find_map(|word| self.host_filename(node(word)?));
        let opened = self.graph.nodes.iter().filter_map(|(id, _)| self.host_filename(id));
        let all: Vec<Arc<str>> = self.graph.foreign_locks.keys().cloned().chain(opened).collect();
        let file = all.iter().find(|file| said.contains(&***file)).cloned();
        let file = file.or_else(below).or_else(|| all.first().cloned())?;
        Some(format!("Is another process using the image [{file}]?"))
    }

    /// The name by which the host file that holds a node's data was opened.
    fn host_filename(&self, node: NodeId) -> Option<Arc<str>> {
        match self.graph.nodes[node].file_driver() {
            Some(file) => Some(file.filename.clone()),
            None => self.graph.primary_child(node).and_then(|c| self.host_filename(self.graph.bs(c))),
        }
    }

    /// `bdrv_backing_overridden`
    fn backing_overridden(&self, node: NodeId) -> bool {
        let n = &self.graph.nodes[node];
        match n.backing {
            Some(backing) => *n.auto_backing_file != *self.filename_of(self.graph.bs(backing)),
            None => !n.auto_backing_file.is_empty(),
        }
    }

    /// `bdrv_refresh_filename`
    fn names_of(&self, node: NodeId) -> Names {
        let n = &self.graph.nodes[node];
        let Some(driver) = &n.driver else {
            return Names { exact: "".into(), filename: "".into(), options: Json::empty() };
        };
        if n.implicit {
            return self.names_of(self.below(node));
        }
        let overridden = self.backing_overridden(node);
        let given = n.spec.as_ref().and_then(|spec| spec.given.as_dict()).unwrap_or_default();
        let mut options = Vec::with_capacity(given.len() + 3);
        options.push((Arc::from("driver"), Json::from(driver.format_name())));
        if let Some(file) = driver.file() {
            options.push((Arc::from("filename"), Json::Str(file.filename.clone())));
        }
        options.extend(given.iter().cloned());
        let listed = driver.row().lists_children;
        if listed {
            let children = self.quorum_children(node).into_iter().map(|child| self.names_of(child).options);
            options.push((Arc::from("children"), Json::list(children.collect())));
        }
        for child in n.children.iter().filter(|_| !listed) {
            if n.backing != Some(*child) || overridden {
                let child = &self.graph.children[*child];
                options.push((Arc::from(child.name), self.names_of(child.bs).options));
            }
        }
        if overridden && n.backing.is_none() {
            options.push((Arc::from("backing"), Json::Null));
        }
        let below = self.graph.primary_child(node).map(|c| self.graph.bs(c));
        let described = Described { below, given, overridden };
        let exact = self.exact_filename(node, driver, described);
        let options = Json::Dict(Arc::new(options));
        let filename = if exact.is_empty() { json_name(&options) } else { exact.clone() };
        Names { exact, filename, options }
    }

    /// The driver's name for the node; without a hook that of the node below, if that has a protocol and there is nothing else to say.
    fn exact_filename(&self, node: NodeId, driver: &Driver, described: Described<'_>) -> Arc<str> {
        if let Some(refresh_filename) = driver.row().refresh_filename {
            return refresh_filename(self, node, described);
        }
        let below = described.below.filter(|_| !driver.is_filter() && described.is_plain());
        let has_protocol =
            |below: &NodeId| self.graph.nodes[*below].driver.as_ref().is_some_and(Driver::has_protocol_name);
        below.filter(has_protocol).map_or_else(|| "".into(), |below| self.exact_filename_of(below))
    }

    /// `exact_filename` of a node.
    pub(in crate::world) fn exact_filename_of(&self, node: NodeId) -> Arc<str> {
        self.names_of(node).exact
    }

    /// `bdrv_refresh_filename` of drivers that are named as the node below.
    pub(in crate::world) fn filename_of_below(&self, _: NodeId, described: Described<'_>) -> Arc<str> {
        described.below.map_or_else(|| "".into(), |below| self.filename_of(below))
    }

    /// `bdrv_find_backing_image`: the image of that name below a node.
    #[must_use]
    pub(in crate::world) fn find_backing_image(&self, bs: NodeId, name: &str) -> Option<NodeId> {
        let mut above = self.graph.skip_filters(bs);
        while let Some(cow) = self.graph.cow_bs(above) {
            let below = self.graph.skip_filters(cow);
            let image = &self.graph.nodes[above];
            let found = if self.backing_overridden(above) {
                *self.filename_of(below) == *name
            } else if has_protocol(name) || has_protocol(&image.backing_file) {
                *image.backing_file == *name || self.full_backing_filename_of(above).is_some_and(|full| full == name)
            } else {
                self.absolute_filename(above, name).is_some_and(|wanted| {
                    let full = self.full_backing_filename_of(above);
                    full.is_some_and(|full| self.same_host_file(&full, &wanted))
                })
            };
            if found {
                return Some(below);
            }
            above = below;
        }
        None
    }

    /// Whether two names are of one file that there is (`realpath`).
    fn same_host_file(&self, a: &str, b: &str) -> bool {
        let [a, b] = [a, b].map(|name| self.files.key(&name.into()));
        a == b && self.files.exists(&a)
    }

    /// `bdrv_make_absolute_filename`
    fn absolute_filename(&self, node: NodeId, name: &str) -> Option<String> {
        if has_protocol(name) || name.starts_with('/') {
            return Some(name.to_owned());
        }
        Some(format!("{}{name}", self.dirname(node)?))
    }

    /// `bdrv_get_full_backing_filename`: the name in the image, relative to where the image is.
    pub(in crate::world) fn full_backing_filename_of(&self, node: NodeId) -> Option<String> {
        self.absolute_filename(node, &self.graph.nodes[node].backing_file)
    }

    /// `bdrv_dirname`
    fn dirname(&self, node: NodeId) -> Option<String> {
        if let Some(below) = self.graph.nodes[node].file {
            return self.dirname(self.graph.bs(below));
        }
        let exact = self.names_of(node).exact;
        if exact.is_empty() { None } else { Some(folder(&exact).to_owned()) }
    }
}

fn json_name(options: &Json) -> Arc<str> {
    let mut name = format!("json:{}", to_text(options, MemberOrder::Wire));
    if name.len() >= PATH_MAX {
        // The printer escapes everything but ASCII.
        name.truncate(PATH_MAX - 4);
        name.push_str("...");
    }
    name.into()
}

/// `path_has_protocol`
fn has_protocol(path: &str) -> bool {
    path.find([':', '/']).is_some_and(|i| path.as_bytes()[i] == b':')
}

/// `path_combine` with nothing: up to the last slash, or the protocol's colon.
fn folder(path: &str) -> &str {
    let protocol = if has_protocol(path) { path.find(':').map_or(0, |i| i + 1) } else { 0 };
    let slash = path.rfind('/').map_or(0, |i| i + 1);
    &path[..protocol.max(slash)]
}
