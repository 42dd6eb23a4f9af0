//! Includes, procedures and their parameters: from the files to one flat list of steps.

use super::error::{Fault, Read, SourceSpan, Sources};
use super::fields::{Fields, unknown};
use super::tree::{self, Node, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How deeply procedures may call each other, and files include each other.
const MAX_CALLS: usize = 16;
/// How many steps a scenario may come to.
const MAX_STEPS: usize = 20_000;
/// How many values a scenario may come to after its parameters are in place.
const MAX_VALUES: usize = 2_000_000;
/// How many bytes of text may be made by putting parameters in their places.
const MAX_BYTES: usize = 32 << 20;
/// How many bytes one such text may have.
const MAX_TEXT: usize = 1 << 20;

/// A procedure.
#[derive(Debug)]
struct Define {
    params: Vec<Arc<str>>,
    steps: Vec<Node>,
}

/// Values of parameters by name.
type Scope = BTreeMap<Arc<str>, Node>;

/// The text of a file, and what it says.
type Parsed = (Arc<str>, Arc<Node>);

/// Files that were read before. Scenarios that include the same file share its reading.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// By number in their scenario, which is part of every place, and name: the text, and what it says.
    files: BTreeMap<(u32, Arc<str>), Parsed>,
}

/// All files of a scenario.
#[derive(Debug, Default)]
pub(super) struct Loader {
    pub sources: Sources,
    pub library: Library,
    defines: BTreeMap<Arc<str>, Define>,
    loaded: BTreeSet<Arc<str>>,
}

/// A step with its parameters in place, and the calls that led to it, innermost first.
pub(super) struct Expanded {
    pub node: Node,
    pub via: Vec<SourceSpan>,
}

/// What may still come of putting parameters in their places.
#[derive(Debug)]
struct Budget {
    values: usize,
    bytes: usize,
}

impl Budget {
    fn new() -> Budget {
        Budget { values: MAX_VALUES, bytes: MAX_BYTES }
    }

    /// Takes `values` and `bytes` off, for what stands at `span`.
    fn spend(&mut self, span: SourceSpan, values: usize, bytes: usize) -> Read {
        let spend = |left: &mut usize, n: usize, told: &dyn Fn() -> String| match left.checked_sub(n) {
            Some(rest) => {
                *left = rest;
                Ok(())
            }
            None => Err(Fault::new(span, "the scenario is too large", told())),
        };
        spend(&mut self.values, values, &|| {
            format!("with its parameters in place it has more than {MAX_VALUES} values")
        })?;
        spend(&mut self.bytes, bytes, &|| {
            format!("with its parameters in place it has more than {} MiB of text", MAX_BYTES >> 20)
        })
    }
}

/// Where the expansion stands.
struct Walk<'a> {
    via: Vec<SourceSpan>,
    budget: &'a mut Budget,
    out: &'a mut Vec<Expanded>,
}

/// Gets the text of the file of a name, or says why it cannot be read.
pub type ReadFile<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

impl Loader {
    /// Reads the file `name`; `from` is where it was included.
    pub fn open(&mut self, name: &str, from: Option<SourceSpan>, read: ReadFile<'_>) -> Read<Arc<Node>> {
        let file = self.sources.files.len() as u32;
        let text = read(name).map_err(|why| match from {
            Some(span) => Fault::new(span, format!("cannot read `{name}`"), why),
            None => {
                self.sources.files.push((name.into(), "".into()));
                Fault::new(SourceSpan { file, ..SourceSpan::default() }, "cannot read the file", why)
            }
        })?;
        let (name, text): (Arc<str>, Arc<str>) = (name.into(), text.into());
        self.sources.files.push((name.clone(), text.clone()));
        self.loaded.insert(name.clone());
        let key = (file, name);
        match self.library.files.get(&key) {
            Some((old, node)) if *old == text => Ok(node.clone()),
            _ => {
                let node = Arc::new(tree::parse(file, &text)?);
                // A scenario is read once; what it includes is what others may include too.
                if from.is_some() {
                    self.library.files.insert(key, (text, node.clone()));
                }
                Ok(node)
            }
        }
    }

    /// Takes in the `include` and `define` members of a file.
    pub fn definitions(&mut self, name: &str, fields: &mut Fields<'_>, read: ReadFile<'_>, depth: usize) -> Read {
        if let Some(includes) = fields.opt("include") {
            for include in includes.list()? {
                let path = beside(name, &include.text()?);
                if self.loaded.contains(&*path) {
                    continue;
                }
                if depth >= MAX_CALLS {
                    return Err(Fault::new(
                        include.span,
                        "files include each other too deeply",
                        "this is one too many",
                    ));
                }
                let root = self.open(&path, Some(include.span), read)?;
                let mut fields = Fields::of("an included file", &root)?;
                fields.opt("about");
                self.definitions(&path, &mut fields, read, depth + 1)?;
                fields.end()?;
            }
        }
        let Some(defines) = fields.opt("define") else { return Ok(()) };
        let Value::Map(members) = &defines.value else {
            return Err(Fault::new(
                defines.span,
                "`define` needs a mapping",
                "expected `name: {params: […], steps: […]}`",
            ));
        };
        for (key, node) in members {
            let mut fields = Fields::of(&key.name, node)?;
            let params = fields.opt("params").map_or(Ok(Vec::new()), Node::texts)?;
            let steps = fields.req("steps")?.list()?.to_vec();
            fields.end()?;
            if self.defines.insert(key.name.clone(), Define { params, steps }).is_some() {
                return Err(Fault::new(key.span, format!("`{}` is defined twice", key.name), "defined before"));
            }
        }
        Ok(())
    }

    /// Replaces each `call` in `steps` by the steps of its procedure. A step that cannot be read is left out, and noted in `faults`.
    pub fn expand(&self, steps: &[Node], faults: &mut Vec<Fault>) -> Vec<Expanded> {
        let (mut out, mut budget) = (Vec::new(), Budget::new());
        let mut walk = Walk { via: Vec::new(), budget: &mut budget, out: &mut out };
        for step in steps {
            if let Err(mut fault) = self.walk(std::slice::from_ref(step), &Scope::new(), &mut walk) {
                fault.via = walk.via.drain(..).rev().collect();
                // A scenario that is too large would say so at each step that is left.
                let last = matches!(&*fault.message, "the scenario is too large" | "too many steps");
                faults.push(*fault);
                if last {
                    break;
                }
            }
        }
        out
    }

    fn walk(&self, steps: &[Node], scope: &Scope, walk: &mut Walk<'_>) -> Read {
        for step in steps {
            let node = substitute(step, scope, walk.budget)?;
            if let Some(steps) = waits(&node)? {
                let via: Vec<SourceSpan> = walk.via.iter().rev().copied().collect();
                walk.out.extend(steps.into_iter().map(|node| Expanded { node, via: via.clone() }));
                continue;
            }
            let Some(call) = call_of(&node) else {
                if walk.out.len() >= MAX_STEPS {
                    return Err(Fault::new(node.span, "too many steps", format!("a scenario has at most {MAX_STEPS}")));
                }
                walk.out.push(Expanded { node, via: walk.via.iter().rev().copied().collect() });
                continue;
            };
            let (at, define, inner) = self.called(call)?;
            if walk.via.len() >= MAX_CALLS {
                return Err(Fault::new(at, "procedures call each other too deeply", "this is one too many"));
            }
            walk.via.push(at);
            self.walk(&define.steps, &inner, walk)?;
            walk.via.pop();
        }
        Ok(())
    }

    /// The procedure that a `call` names, where it names it, and the parameters.
    fn called(&self, call: &Node) -> Read<(SourceSpan, &Define, Scope)> {
        let no_args = Node { span: call.span, value: Value::Map(Vec::new()) };
        let (key, args) = match &call.value {
            Value::Map(members) if members.len() == 1 => (members[0].0.clone(), &members[0].1),
            Value::Str(name) => (tree::Key { span: call.span, name: name.clone() }, &no_args),
            _ => {
                return Err(Fault::new(
                    call.span,
                    "`call` needs one procedure",
                    "expected `{name: {parameter: value}}`",
                ));
            }
        };
        let Some(define) = self.defines.get(&key.name) else {
            let known: Vec<&str> = self.defines.keys().map(|name| &**name).collect();
            return Err(unknown(&key, "procedure that is defined or included", &known));
        };
        let given: &[(tree::Key, Node)] = match &args.value {
            Value::Map(members) => members,
            Value::Null => &[],
            _ => {
                return Err(Fault::new(
                    args.span,
                    format!("`{}` needs its parameters by name", key.name),
                    "expected `{parameter: value}`",
                ));
            }
        };
        let params: Vec<&str> = define.params.iter().map(|param| &**param).collect();
        let known: BTreeSet<&str> = params.iter().copied().collect();
        if let Some((stray, _)) = given.iter().find(|(arg, _)| !known.contains(&*arg.name)) {
            return Err(unknown(stray, &format!("parameter of `{}`", key.name), &params));
        }
        let scope: Scope = given.iter().map(|(arg, value)| (arg.name.clone(), value.clone())).collect();
        if let Some(missing) = params.iter().find(|param| !scope.contains_key(**param)) {
            let message = format!("`{}` lacks its parameter `{missing}`", key.name);
            return Err(Fault::new(key.span, message, format!("expected `{missing}` among the parameters")));
        }
        Ok((key.span, define, scope))
    }
}

/// The name of `include` as seen from where `name` stands.
fn beside(name: &str, include: &str) -> String {
    match name.rsplit_once('/') {
        Some((folder, _)) if !include.starts_with('/') => format!("{folder}/{include}"),
        _ => include.to_owned(),
    }
}

/// What stands behind `call`, if the step is one.
fn call_of(step: &Node) -> Option<&Node> {
    match &step.value {
        Value::Map(members) if members.len() == 1 && &*members[0].0.name == "call" => Some(&members[0].1),
        _ => None,
    }
}

/// The steps that `wait: JOB` is short for: the block job completes (or fails, with `error`), and then it is gone (or has come to the
/// status that `until` names). `until: ready` stands for the event by which a mirror or an active commit says that it is in sync.
fn waits(step: &Node) -> Read<Option<Vec<Node>>> {
    let Value::Map(members) = &step.value else { return Ok(None) };
    if members.first().is_none_or(|(key, _)| &*key.name != "wait") {
        return Ok(None);
    }
    let mut fields = Fields::of("wait", step)?;
    let job = fields.req("wait")?.text()?;
    let (error, until) = (fields.opt("error"), fields.opt("until"));
    fields.end()?;
    let at = |value: Value| Node { span: step.span, value };
    let text = |text: &str| at(Value::Str(text.into()));
    let map = |members: Vec<(&str, Node)>| {
        let member = |(name, node): (&str, Node)| (tree::Key { span: step.span, name: name.into() }, node);
        at(Value::Map(members.into_iter().map(member).collect()))
    };
    let event = |name: &str, data: Node, without: Vec<Node>| {
        let mut members = vec![("event", text(name)), ("data", data)];
        if !without.is_empty() {
            members.push(("without", at(Value::List(without))));
        }
        map(vec![("event", map(members))])
    };
    let mut data = vec![("device", text(&job))];
    let status = until.map_or_else(|| Ok("null".into()), Node::text)?;
    if !STATUSES.contains(&&*status) {
        let span = until.map_or(step.span, |node| node.span);
        let expected = format!("expected one of: {}", STATUSES.join(", "));
        return Err(Fault::new(span, format!("`{status}` is no status that can be waited for"), expected));
    }
    if let Some(error) = error.filter(|_| &*status == READY) {
        let message = "a job that becomes ready has no error".to_owned();
        return Err(Fault::new(error.span, message, "expected no `error` beside `until: ready`".to_owned()));
    }
    if &*status == READY {
        return Ok(Some(vec![event("BLOCK_JOB_READY", map(data), Vec::new())]));
    }
    if let Some(error) = error {
        error.text()?;
        data.push(("error", error.clone()));
    }
    let without = if error.is_none() { vec![text("error")] } else { Vec::new() };
    Ok(Some(vec![
        event("BLOCK_JOB_COMPLETED", map(data), without),
        event("JOB_STATUS_CHANGE", map(vec![("id", text(&job)), ("status", text(&status))]), Vec::new()),
    ]))
}

/// What `wait` can wait for: the one before a job ends, or one of those after it has completed.
pub(super) const STATUSES: &[&str] = &[READY, "concluded", "null"];
const READY: &str = "ready";

/// `node` with its parameters in place.
fn substitute(node: &Node, scope: &Scope, budget: &mut Budget) -> Read<Node> {
    budget.spend(node.span, 1, 0)?;
    let value = match &node.value {
        Value::Str(text) if text.contains('$') => fill(text, node.span, scope, budget)?,
        Value::List(items) => {
            Value::List(items.iter().map(|item| substitute(item, scope, budget)).collect::<Read<_>>()?)
        }
        Value::Map(members) => {
            let filled = members.iter().map(|(key, value)| Ok((key.clone(), substitute(value, scope, budget)?)));
            Value::Map(filled.collect::<Read<_>>()?)
        }
        other => other.clone(),
    };
    Ok(Node { span: node.span, value })
}

/// Puts parameters for `$name` and `${name}`, and a dollar sign for `$$`. A text that is one parameter and nothing else becomes what the
/// parameter is.
fn fill(text: &str, span: SourceSpan, scope: &Scope, budget: &mut Budget) -> Read<Value> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{') {
            Some(inner) => {
                inner.split_once('}').ok_or_else(|| Fault::new(span, "`${` without `}`", "expected `${name}`"))?
            }
            None => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        let Some(node) = scope.get(name) else {
            let known: Vec<&str> = scope.keys().map(|name| &**name).collect();
            let message = format!("there is no parameter `{name}` here");
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(
                Fault::new(span, message, format!("parameters are: {known}")).help("`$$` stands for a dollar sign")
            );
        };
        if out.is_empty() && after.is_empty() {
            // A text is shared; of a list or a mapping this is a copy.
            budget.spend(span, node.value.count(), 0)?;
            return Ok(node.value.clone());
        }
        match &node.value {
            Value::Str(s) => out.push_str(s),
            Value::Number(n) => out.push_str(n),
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Uint(n) => out.push_str(&n.to_string()),
            Value::Bool(b) => out.push_str(&b.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => {
                let message = format!("the parameter `{name}` cannot stand within a text");
                return Err(Fault::new(span, message, format!("it is {}", node.describe())));
            }
        }
        if out.len() > MAX_TEXT {
            return Err(Fault::new(span, "the text is too long", format!("it has more than {} MiB", MAX_TEXT >> 20)));
        }
        rest = after;
    }
    out.push_str(rest);
    budget.spend(span, 0, out.len())?;
    Ok(Value::Str(out.into()))
}
