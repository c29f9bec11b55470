//! What a migration says: one line for each change, or one JSON object.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::keys::KeyEvent;
use super::mirror::{Counts, Event, Item};
use crate::cli::print;
use crate::paint::{Paint, harmless};

/// Says what happens, as text or as JSON.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) json: bool,
    pub(super) dry_run: bool,
    pub(super) paint: Paint,
    /// Whether what is copied is said by the summary.
    pub(super) first: bool,
    /// What the last status line said.
    pub(super) said: Option<Counts>,
}

impl Report {
    /// What became of an instance.
    pub(super) fn instance(&self, item: &Item, event: &Event) -> io::Result<()> {
        let (mark, word) = match event {
            Event::Copied => (self.paint.green("+"), "copied"),
            Event::Changed(_) => ("~".to_owned(), "changed"),
            Event::Removed => (self.paint.red("-"), "removed"),
            Event::Leaving => (self.paint.red("-"), "leaving"),
            Event::Switched => (self.paint.green(">"), "switched"),
            Event::Refused(_) => (self.paint.red("!"), "refused"),
        };
        if self.json {
            let mut line = json!({
                "event": word, "service": item.key.service, "id": item.key.id,
                "address": item.address, "status": item.status,
            });
            if !item.key.node.is_empty() {
                line["node"] = Value::from(&item.key.node[..]);
            }
            match event {
                Event::Changed(before) => line["before"] = Value::from(&before[..]),
                Event::Refused(why) => line["reason"] = Value::from(&why[..]),
                _ => {}
            }
            return self.line(line);
        }
        let said = match event {
            Event::Copied if self.first && !self.dry_run => return Ok(()),
            Event::Copied => self.paint.state(&item.status),
            Event::Changed(before) if *before == item.status => "has changed".to_owned(),
            Event::Changed(before) => {
                format!("{} -> {}", harmless(before), self.paint.state(&item.status))
            }
            Event::Removed => "is gone from the source".to_owned(),
            Event::Leaving => {
                "the source has forgotten it; it stays for its lease, unless it comes back"
                    .to_owned()
            }
            Event::Switched => "is with Atoll itself".to_owned(),
            Event::Refused(why) => format!("is not copied: {}", harmless(why)),
        };
        let node = match &item.key.node[..] {
            "" => String::new(),
            node => format!(" on {}", harmless(node)),
        };
        let (service, id) = (harmless(&item.key.service), harmless(&item.key.id));
        let address = self.paint.dim(harmless(&item.address));
        print(format!(
            "{mark} {} {id}{node} {address} {said}",
            self.paint.bold(service)
        ))
    }

    /// What became of a key.
    pub(super) fn key(&self, key: &str, event: &KeyEvent) -> io::Result<()> {
        let (mark, word, said) = match event {
            KeyEvent::Copied => (self.paint.green("+"), "copied", String::new()),
            KeyEvent::Changed => ("~".to_owned(), "changed", String::new()),
            KeyEvent::Removed => (self.paint.red("-"), "removed", String::new()),
            KeyEvent::Theirs => (
                self.paint.green(">"),
                "switched",
                " has another value in Atoll, which stays; to copy it, delete it there and start again"
                    .to_owned(),
            ),
            KeyEvent::Refused(why) => {
                let said = format!(" is not copied: {}", harmless(why));
                (self.paint.red("!"), "refused", said)
            }
        };
        if self.json {
            let mut line = json!({ "event": format!("key_{word}"), "key": key });
            if let KeyEvent::Refused(why) = event {
                line["reason"] = Value::from(&why[..]);
            }
            return self.line(line);
        }
        if *event == KeyEvent::Copied && self.first && !self.dry_run {
            return Ok(());
        }
        print(format!("{mark} key {}{said}", harmless(key)))
    }

    /// What a first copy came to.
    pub(super) fn summary(
        &self,
        from: &str,
        counts: Counts,
        keys: Option<usize>,
    ) -> io::Result<()> {
        let Counts {
            services,
            instances,
            switched,
            refused,
        } = counts;
        if self.json {
            return self.line(json!({
                "event": "summary", "from": from, "dry_run": self.dry_run, "services": services,
                "instances": instances, "switched": switched, "refused": refused, "keys": keys,
            }));
        }
        let verb = if self.dry_run { "would copy" } else { "copied" };
        let copied = instances - switched - refused;
        let mut line = format!(
            "{verb} {} of {} from {from}",
            many(copied, "instance"),
            many(services, "service")
        );
        if let Some(keys) = keys {
            line.push_str(&format!(", {}", many(keys, "key")));
        }
        if switched > 0 {
            line.push_str(&format!("; {switched} are with Atoll itself"));
        }
        if refused > 0 {
            line.push_str(&format!("; {refused} refused"));
        }
        print(line)
    }

    /// How far it is, when that is something new.
    pub(super) fn status(&mut self, counts: Counts) -> io::Result<()> {
        let told = |counts: Counts| (counts.switched, counts.instances);
        if self.said.map(told) == Some(told(counts)) {
            return Ok(());
        }
        self.said = Some(counts);
        let (switched, all) = told(counts);
        if self.json {
            let line = json!({ "event": "status", "switched": switched, "instances": all });
            return self.line(line);
        }
        let rest = match switched == all && all > 0 {
            true => "; the source may go, Ctrl-C ends",
            false => "; Ctrl-C ends",
        };
        print(self.paint.dim(format!(
            "{switched} of {} have switched{rest}",
            many(all, "instance")
        )))
    }

    /// Something that is no instance's: `event` for programs, the text for people.
    pub(super) fn note(&self, event: &str, text: &str) -> io::Result<()> {
        match self.json {
            true => self.line(json!({ "event": event, "text": text })),
            false => print(self.paint.dim(harmless(text))),
        }
    }

    /// How it ended.
    pub(super) fn end(&self, counts: Counts, lease: Duration) -> io::Result<()> {
        let left = counts.instances - counts.switched - counts.refused;
        let text = match left {
            0 => "ended; nothing here lives by this migration".to_owned(),
            left => format!(
                "ended; {} that {} not switched stay for {} s, in which their clients can take them over by registering",
                many(left, "instance"),
                if left == 1 { "has" } else { "have" },
                lease.as_secs()
            ),
        };
        self.note("ended", &text)
    }

    fn line(&self, line: Value) -> io::Result<()> {
        print(line.to_string())
    }
}

fn many(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
