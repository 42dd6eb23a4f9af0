//! The page of a campaign: what was run, what was reached and missed, which traces came how often, and what failed, with pictures.

use super::style::escape;
use crate::base::counted;
use std::fmt::Write;

/// A campaign, as its page shows it. Whoever runs one fills this in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Campaign {
    /// What was run: the scenario, or the generator.
    pub title: String,
    /// How it ended, in a few words.
    pub outcome: String,
    /// Whether nothing failed.
    pub passed: bool,
    /// Figures: what they are, and their values.
    pub figures: Vec<(String, String)>,
    /// Stages of the campaign.
    pub stages: Vec<StageRow>,
    /// Marks of what can be reached in the code, by how often they were.
    pub marks: Vec<Mark>,
    /// Distinct traces, most frequent first.
    pub traces: Vec<TraceCount>,
    /// What failed.
    pub failures: Vec<Failure>,
}

/// A stage: a strategy and what it gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageRow {
    /// As `fuzz` prints it.
    pub name: String,
    /// All of them, those that failed included.
    pub runs: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Traces nobody had seen before.
    pub new_traces: u64,
    /// Why it ended.
    pub ended: String,
}

/// A mark that runs may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// What was reached, as the catalogue of marks says it.
    pub name: String,
    /// How many runs reached it; 0: missed.
    pub count: u64,
}

/// A trace that differs from all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceCount {
    /// What names it: a digest, or words.
    pub name: String,
    /// How many runs gave it.
    pub count: u64,
    /// How to have it: a seed, a command.
    pub again: String,
}

/// Something that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong, in a line.
    pub title: String,
    /// As `run` prints the outcome, over several lines.
    pub text: String,
    /// The command that gives it again.
    pub again: String,
    /// How many runs failed like this.
    pub count: u64,
    /// Its timeline, as [`super::svg`] draws it; empty without.
    pub picture: String,
    /// File of its page, beside this one; empty without.
    pub page: String,
}

const CSS: &str = "\
:root{color-scheme:light dark;--ground:#f6f8f9;--card:#fff;--ink:#1d2730;--dim:#5f6b76;--line:#dde3e8;--good:#2f9e63;--bad:#d02c3a;--bar:#9db4c6}\
@media(prefers-color-scheme:dark){:root{--ground:#0e1317;--card:#161d23;--ink:#e4e9ed;--dim:#98a4ae;--line:#2a343d;--bad:#ff6b76;--bar:#47606f}}\
body{margin:0 auto;max-width:1080px;padding:18px;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,'Segoe UI','DejaVu Sans',sans-serif}\
h1{font-size:21px;margin:0 0 4px}h2{font-size:16px;margin:28px 0 8px}\
section,.card{background:var(--card);border:1px solid var(--line);border-radius:9px;padding:12px 16px;margin:10px 0;overflow-x:auto}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}\
th{color:var(--dim);font-weight:500}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:0}dt{color:var(--dim)}dd{margin:0;font-variant-numeric:tabular-nums}\
code,pre{font:12.5px/1.45 ui-monospace,'DejaVu Sans Mono',monospace}pre{white-space:pre-wrap;overflow-wrap:anywhere}\
.bar{display:inline-block;height:9px;background:var(--bar);border-radius:2px;vertical-align:middle}\
ul.marks{columns:3 220px;padding:0;list-style:none;margin:0}ul.marks li{break-inside:avoid;overflow-wrap:anywhere}\
svg{max-width:100%;height:auto;display:block;border:1px solid var(--line);border-radius:6px}";

/// Draws the page of a campaign: one file, nothing fetched.
#[must_use]
pub fn draw(campaign: &Campaign) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\"><title>Campaign: {0}</title><style>{CSS}</style></head><body>\n<h1>{0}</h1>\n\
         <p class=\"{1}\">{2}</p>\n",
        escape(&campaign.title),
        if campaign.passed { "good" } else { "bad" },
        escape(&campaign.outcome)
    );
    figures(campaign, &mut out);
    failures(campaign, &mut out);
    stages(campaign, &mut out);
    marks(campaign, &mut out);
    traces(campaign, &mut out);
    out.push_str("</body></html>\n");
    out
}

fn figures(campaign: &Campaign, out: &mut String) {
    out.push_str("<section><dl>\n");
    for (name, value) in &campaign.figures {
        _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    out.push_str("</dl></section>\n");
}

fn failures(campaign: &Campaign, out: &mut String) {
    _ = writeln!(out, "<h2>Failures</h2>");
    if campaign.failures.is_empty() {
        out.push_str("<p class=\"dim\">None.</p>\n");
    }
    for failure in &campaign.failures {
        let times = if failure.count > 1 {
            format!(" <span class=\"dim\">{}</span>", counted(failure.count, "run"))
        } else {
            String::new()
        };
        _ = writeln!(out, "<section class=\"failure\"><b class=\"bad\">{}</b>{times}", escape(&failure.title));
        if failure.text != failure.title {
            _ = writeln!(out, "<pre>{}</pre>", escape(&failure.text));
        }
        if !failure.again.is_empty() {
            _ = writeln!(out, "<p class=\"dim\">again: <code>{}</code></p>", escape(&failure.again));
        }
        if !failure.page.is_empty() {
            _ = writeln!(out, "<p><a href=\"{0}\">the whole timeline</a></p>", escape(&failure.page));
        }
        out.push_str(&failure.picture);
        out.push_str("</section>\n");
    }
}

fn stages(campaign: &Campaign, out: &mut String) {
    if campaign.stages.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Stages</h2><section><table><tr><th>stage</th><th class=\"n\">runs</th><th class=\"n\">failed</th>\
         <th class=\"n\">new traces</th><th>ended</th></tr>\n",
    );
    for stage in &campaign.stages {
        let bad = if stage.failed > 0 { " bad" } else { "" };
        _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n{bad}\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&stage.name),
            stage.runs,
            stage.failed,
            stage.new_traces,
            escape(&stage.ended)
        );
    }
    out.push_str("</table></section>\n");
}

fn marks(campaign: &Campaign, out: &mut String) {
    let (reached, missed): (Vec<&Mark>, Vec<&Mark>) = campaign.marks.iter().partition(|mark| mark.count > 0);
    if campaign.marks.is_empty() {
        return;
    }
    _ = writeln!(out, "<h2>Marks: {} of {} reached</h2>", reached.len(), campaign.marks.len());
    for (name, marks, class) in [("missed", missed, "bad"), ("reached", reached, "good")] {
        if marks.is_empty() {
            continue;
        }
        _ = writeln!(out, "<section><b class=\"{class}\">{name}</b><ul class=\"marks {name}\">");
        for mark in marks {
            let count =
                if mark.count > 0 { format!(" <span class=\"dim\">{}</span>", mark.count) } else { String::new() };
            _ = writeln!(out, "<li><code>{}</code>{count}</li>", escape(&mark.name));
        }
        out.push_str("</ul></section>\n");
    }
}

fn traces(campaign: &Campaign, out: &mut String) {
    if campaign.traces.is_empty() {
        return;
    }
    let most = campaign.traces.iter().map(|trace| trace.count).max().unwrap_or(1).max(1);
    _ = writeln!(
        out,
        "<h2>Client traces of {}, by the strategy walk: {} distinct</h2><section><table><tr><th>trace</th><th class=\"n\">runs</th><th></th><th>again</th></tr>",
        counted(campaign.traces.iter().map(|trace| trace.count).sum::<u64>(), "more run"),
        campaign.traces.len()
    );
    for trace in &campaign.traces {
        _ = writeln!(
            out,
            "<tr><td><code>{}</code></td><td class=\"n\">{}</td><td><span class=\"bar\" style=\"width:{}px\"></span></td>\
             <td><code>{}</code></td></tr>",
            escape(&trace.name),
            trace.count,
            (trace.count * 200 / most).max(1),
            escape(&trace.again)
        );
    }
    out.push_str("</table></section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_campaign_is_on_its_page() {
        let campaign = Campaign {
            title: "a <campaign>".to_owned(),
            outcome: "1 failure".to_owned(),
            figures: vec![("runs".to_owned(), "12".to_owned())],
            stages: vec![StageRow { name: "walk".to_owned(), runs: 12, failed: 1, ..StageRow::default() }],
            marks: vec![
                Mark { name: "group aborts".to_owned(), count: 3 },
                Mark { name: "job pauses".to_owned(), count: 0 },
            ],
            traces: vec![TraceCount { name: "ab12".to_owned(), count: 11, again: "--seed 4".to_owned() }],
            failures: vec![Failure {
                title: "violated: x".to_owned(),
                text: "violated: x\n  more".to_owned(),
                again: "blockjob-sim run a.yaml --seed 5".to_owned(),
                count: 1,
                picture: "<svg></svg>".to_owned(),
                page: "1.html".to_owned(),
            }],
            passed: false,
        };
        let page = draw(&campaign);
        for part in [
            "a &lt;campaign&gt;",
            "1 of 2 reached",
            "group aborts",
            "job pauses",
            "--seed 5",
            "<svg></svg>",
            "ab12",
            "1.html",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("http"), "nothing is fetched");
        let missed = page.find("marks missed").expect("a list of what was missed");
        assert!(page[missed..].find("job pauses") < page[missed..].find("group aborts"));
    }
}
