//! What goes, and why: a pure function of what is here, the rules and the time.

mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use slipway_image::Digest;

use self::state::State;
use super::{
    content::{Content, Manifest},
    rules::{Limits, Rule, Rules},
    uses::RECENT,
};
use crate::{
    names::{Repository, Tag},
    store::Origin,
};

/// What goes, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each manifest of which something goes.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Bytes on disk that become free.
    pub fn freed(&self) -> u64 {
        self.steps.iter().map(|step| step.freed).sum()
    }
}

/// Tags that go, and the manifest that they name, if nothing else does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub repository: Repository,
    /// Which manifest.
    pub digest: Digest,
    /// The tags that go, and when each was put there, Unix milliseconds.
    pub tags: Vec<(Tag, u64)>,
    /// The manifest goes with them. Then these are all of its tags.
    pub manifest: bool,
    /// When it was used last, as far as is known.
    pub used: u64,
    /// A sentence for people.
    pub why: String,
    /// Bytes on disk that become free by it, once the steps before it are done.
    pub freed: u64,
}

/// Decides. `now` is in Unix milliseconds.
pub fn plan(content: &Content, rules: &Rules, now: u64) -> Plan {
    let mut planning = Planning {
        state: State::new(content),
        content,
        rules,
        now,
        taken: BTreeSet::new(),
        plan: Plan::default(),
    };
    planning.own();
    planning.mirrored();
    planning.plan
}

struct Planning<'a> {
    content: &'a Content,
    rules: &'a Rules,
    state: State<'a>,
    now: u64,
    /// Tags that went, by their manifest.
    taken: BTreeSet<(usize, Tag)>,
    plan: Plan,
}

impl<'a> Planning<'a> {
    fn age(&self, at: u64) -> Duration {
        Duration::from_millis(self.now.saturating_sub(at))
    }

    /// Somebody may be pulling it.
    fn is_recent(&self, manifest: usize) -> bool {
        self.age(self.used(manifest)) < RECENT
    }

    /// One of its tags stays whatever is said.
    fn is_protected(&self, manifest: usize) -> bool {
        let it = &self.content.manifests[manifest];
        let mut tags = it.tags.iter();
        tags.any(|(tag, origin, _)| self.rules.protects(&it.repository, tag, *origin))
    }

    /// An index is used with what it names.
    fn used(&self, manifest: usize) -> u64 {
        // Indexes may name indexes, many the same ones: each is looked at once.
        let (mut seen, mut left) = (BTreeSet::from([manifest]), vec![manifest]);
        let mut last = 0;
        while let Some(number) = left.pop() {
            let it = &self.content.manifests[number];
            last = last.max(it.used);
            left.extend(it.children.iter().filter(|child| seen.insert(**child)));
        }
        last
    }

    /// Tags, then what no tag names.
    fn own(&mut self) {
        // By repository and rule.
        let mut tags: BTreeMap<(&Repository, usize), Vec<Tagged<'a>>> = BTreeMap::new();
        for (number, manifest) in self.content.manifests.iter().enumerate() {
            let own = |(_, origin, _): &&(Tag, Origin, u64)| *origin == Origin::Local;
            for (tag, _, tagged) in manifest.tags.iter().filter(own) {
                let mut of = self.rules.of_own(&manifest.repository);
                if let Some((place, rule)) = of.find(|(_, rule)| rule.names(tag.as_str())) {
                    let of = tags.entry((&manifest.repository, place)).or_default();
                    of.push(Tagged {
                        tag,
                        tagged: *tagged,
                        manifest: number,
                        rule,
                    });
                }
            }
        }
        let mut going: BTreeMap<usize, Vec<(&Tagged<'a>, String)>> = BTreeMap::new();
        for tags in tags.values_mut() {
            tags.retain(|t| {
                let repository = &self.content.manifests[t.manifest].repository;
                !self.rules.protects(repository, t.tag, Origin::Local)
            });
            tags.sort_by_key(|t| (std::cmp::Reverse(t.tagged), t.tag));
            for (place, tagged) in tags.iter().enumerate() {
                if let Some(why) = self.why_not(tagged, place)
                    && !self.is_recent(tagged.manifest)
                {
                    going
                        .entry(tagged.manifest)
                        .or_default()
                        .push((tagged, why));
                }
            }
        }
        for (manifest, tags) in going {
            let rule = tags[0].0.rule;
            let mut reasons: Vec<&str> = tags.iter().map(|(_, why)| &**why).collect();
            reasons.dedup();
            let why = reasons.join("; ");
            let tags = tags
                .iter()
                .map(|(t, _)| (t.tag.clone(), t.tagged))
                .collect();
            self.take(manifest, tags, rule, why);
        }
        self.untagged();
    }

    /// Why a tag goes that is at this place among its rule's, newest first.
    fn why_not(&self, tagged: &Tagged<'_>, place: usize) -> Option<String> {
        let Limits::Own {
            tags,
            keep,
            max_age,
            ..
        } = &tagged.rule.limits
        else {
            return None;
        };
        let age = self.age(tagged.tagged);
        if keep.is_some_and(|keep| place < keep) || max_age.is_some_and(|most| age <= most) {
            return None;
        }
        let old =
            max_age.map(|most| format!("tagged {} ago, max_age is {}", span(age), span(most)));
        let many = keep.map(|keep| format!("not among the newest {keep} of {tags}"));
        Some(old.into_iter().chain(many).collect::<Vec<_>>().join(", "))
    }

    fn untagged(&mut self) {
        for (number, manifest) in self.content.manifests.iter().enumerate() {
            let limit = self
                .rules
                .of_own(&manifest.repository)
                .find_map(|(_, rule)| {
                    let Limits::Own { untagged, .. } = rule.limits else {
                        return None;
                    };
                    Some((rule, untagged?))
                });
            let Some((rule, limit)) = limit else {
                continue;
            };
            let age = self.age(manifest.stored);
            if manifest.origin == Origin::Local
                && manifest.tags.is_empty()
                && !manifest.by_digest
                && self.is_top(number)
                && age > limit
                && !self.is_recent(number)
            {
                let why = format!(
                    "no tag names it, pushed {} ago, untagged is {}",
                    span(age),
                    span(limit)
                );
                self.take(number, Vec::new(), rule, why);
            }
        }
    }

    /// Nothing that is here names it, and it is about nothing that is here.
    fn is_top(&self, manifest: usize) -> bool {
        let it = &self.content.manifests[manifest];
        self.state.alive[manifest] && self.state.parents[manifest] == 0 && !it.has_subject
    }

    fn mirrored(&mut self) {
        // By rule; what nobody used for longest first.
        let mut tops: BTreeMap<usize, (&Rule, Vec<usize>)> = BTreeMap::new();
        for (number, manifest) in self.content.manifests.iter().enumerate() {
            let tagged_here = manifest.tags.iter().any(|(_, o, _)| *o == Origin::Local);
            if manifest.origin == Origin::Upstream
                && !tagged_here
                && self.is_top(number)
                && let Some((place, rule)) = self.rules.of_mirrored(&manifest.repository)
            {
                tops.entry(place)
                    .or_insert((rule, Vec::new()))
                    .1
                    .push(number);
            }
        }
        for (rule, mut tops) in tops.into_values() {
            tops.sort_by_key(|top| (self.last(*top), *top));
            self.content_of(rule, &tops);
        }
    }

    /// When it was pulled last, or came.
    fn last(&self, manifest: usize) -> u64 {
        self.used(manifest)
            .max(self.content.manifests[manifest].stored)
    }

    fn content_of(&mut self, rule: &'a Rule, tops: &[usize]) {
        let Limits::Mirrored {
            max_age,
            unused,
            max_size,
        } = rule.limits
        else {
            return;
        };
        let may_go = |planning: &Self, top: usize| {
            planning.state.alive[top] && !planning.is_protected(top) && !planning.is_recent(top)
        };
        for &top in tops.iter() {
            let manifest = &self.content.manifests[top];
            let (age, idle) = (self.age(manifest.stored), self.age(self.last(top)));
            let why = if let Some(most) = max_age.filter(|most| age > *most) {
                format!("fetched {} ago, max_age is {}", span(age), span(most))
            } else if let Some(most) = unused.filter(|most| idle > *most) {
                format!("not pulled for {}, unused is {}", span(idle), span(most))
            } else {
                continue;
            };
            if may_go(self, top) {
                self.take(top, tags_of(manifest), rule, why);
            }
        }
        let Some(budget) = max_size else { return };
        // What all of it takes, and nothing else has.
        let mut all = self.state.clone();
        let mut takes: u64 = tops.iter().map(|top| all.remove(*top)).sum();
        for &top in tops {
            if takes <= budget {
                break;
            }
            if may_go(self, top) {
                let why = format!("mirrored content takes {takes} bytes, max_size is {budget}");
                let before = self.plan.freed();
                self.take(top, tags_of(&self.content.manifests[top]), rule, why);
                takes = takes.saturating_sub(self.plan.freed() - before);
            }
        }
    }

    /// Takes tags away, and the manifest when nothing else names it.
    fn take(&mut self, number: usize, mut tags: Vec<(Tag, u64)>, rule: &Rule, why: String) {
        if !self.state.alive[number] {
            // With what it is about.
            return;
        }
        let manifest = &self.content.manifests[number];
        tags.retain(|(tag, _)| self.taken.insert((number, tag.clone())));
        self.state.tags[number] -= tags.len();
        let goes = self.state.tags[number] == 0
            && self.state.parents[number] == 0
            && (!manifest.by_digest || manifest.origin == Origin::Upstream);
        let freed = match goes {
            true => self.state.remove(number),
            false => 0,
        };
        self.plan.steps.push(Step {
            repository: manifest.repository.clone(),
            digest: manifest.digest.clone(),
            tags,
            manifest: goes,
            used: manifest.used,
            why,
            freed,
        });
        if !goes || !rule.delete_referrers {
            return;
        }
        for &referrer in &manifest.referrers {
            let it = &self.content.manifests[referrer];
            if self.state.alive[referrer] && !self.is_protected(referrer) {
                let why = format!("what it is about goes: {}", manifest.digest);
                self.take(referrer, tags_of(it), rule, why);
            }
        }
    }
}

struct Tagged<'a> {
    tag: &'a Tag,
    tagged: u64,
    manifest: usize,
    rule: &'a Rule,
}

fn tags_of(manifest: &Manifest) -> Vec<(Tag, u64)> {
    let tags = manifest.tags.iter();
    tags.map(|(tag, _, at)| (tag.clone(), *at)).collect()
}

/// `40 days`, `5 hours`.
fn span(time: Duration) -> String {
    let (hours, one) = match time.as_secs() / 3600 {
        hours @ 48.. => (hours / 24, "day"),
        0 => (time.as_secs() / 60, "minute"),
        hours => (hours, "hour"),
    };
    format!("{hours} {one}{}", if hours == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
