//! Classes of requests, and what a run amounts to for each.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::deploy::{Deployment, requests_without_answers};
use crate::engine::observer::{Observer, RequestRecord};
use crate::metrics::{Measure, Recorder, Summary};

/// More priorities, or tenants, than this are not told apart.
const MOST: usize = 16;

/// Some of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    All,
    /// Prompts of fewer tokens than this.
    PromptBelow(u32),
    /// Prompts of at least so many.
    PromptFrom(u32),
    Priority(i32),
    Tenant {
        number: u16,
        name: String,
    },
}

impl Class {
    pub fn name(&self) -> String {
        match self {
            Self::All => "all".into(),
            Self::PromptBelow(tokens) => format!("prompt < {tokens}"),
            Self::PromptFrom(tokens) => format!("prompt >= {tokens}"),
            Self::Priority(priority) => format!("priority {priority}"),
            Self::Tenant { name, .. } => format!("tenant {name}"),
        }
    }

    pub const fn holds(&self, record: &RequestRecord) -> bool {
        match self {
            Self::All => true,
            Self::PromptBelow(tokens) => record.prompt_tokens < *tokens,
            Self::PromptFrom(tokens) => record.prompt_tokens >= *tokens,
            Self::Priority(priority) => record.priority == *priority,
            Self::Tenant { number, .. } => record.tenant == *number,
        }
    }
}

/// The requests of a run, as far as classes come from them.
#[derive(Clone, Debug, Default)]
pub struct Census {
    pub requests: u64,
    prompts: BTreeMap<u32, u64>,
    priorities: BTreeSet<i32>,
}

impl Census {
    /// Of the run with `seed`. Where somebody waits for an answer, it takes a run to know.
    pub fn of(deployment: &Deployment<'_>, seed: u64) -> Self {
        let mut census = Self::default();
        let Some(mut workload) = requests_without_answers(deployment.scenario(), seed) else {
            return deployment.simulate(seed, census, false).1;
        };
        while workload.next_arrival().is_some() {
            let spec = workload.take();
            census.add(spec.prompt_tokens, spec.priority);
        }
        census
    }

    fn add(&mut self, prompt: u32, priority: i32) {
        self.requests += 1;
        *self.prompts.entry(prompt).or_default() += 1;
        self.priorities.insert(priority);
    }

    /// The shortest prompt that half of the prompts are below; none where all are equally long.
    fn middle(&self) -> Option<u32> {
        let mut below = 0;
        let first = *self.prompts.keys().next()?;
        for (&prompt, count) in &self.prompts {
            if below * 2 >= self.requests && prompt > first {
                return Some(prompt);
            }
            below += count;
        }
        self.prompts.keys().next_back().copied().filter(|&last| last > first)
    }

    /// The classes, with all requests first: prompts shorter and longer than `split` (or than half of
    /// them), and priorities and tenants where there are several.
    pub fn classes(&self, split: Option<u32>, tenants: &[String]) -> Vec<Class> {
        let mut classes = vec![Class::All];
        if let Some(split) = split.or_else(|| self.middle()) {
            classes.extend([Class::PromptBelow(split), Class::PromptFrom(split)]);
        }
        if (2..=MOST).contains(&self.priorities.len()) {
            classes.extend(self.priorities.iter().map(|&priority| Class::Priority(priority)));
        }
        if (2..=MOST).contains(&tenants.len()) {
            let named = (0..).zip(tenants.iter().cloned());
            classes.extend(named.map(|(number, name)| Class::Tenant { number, name }));
        }
        classes
    }
}

impl Observer for Census {
    fn on_request(&mut self, record: &RequestRecord) {
        self.add(record.prompt_tokens, record.priority);
    }
}

/// Summarises parts of a run: each class, and sections of it in order of arrival.
#[derive(Debug)]
pub struct Parts<'a> {
    classes: &'a [Class],
    /// Requests in a section; all where there is one section.
    section: u64,
    sections: usize,
    /// By class, then by section. The first class is all requests, whose recorder sees the steps too
    /// and is not here unless there are sections.
    whole: Vec<Recorder>,
    parts: Vec<Vec<Recorder>>,
}

/// A run's summaries.
#[derive(Clone, Debug)]
pub struct Summaries {
    /// By class.
    pub whole: Vec<Summary>,
    /// By class, then by section; empty without sections.
    pub sections: Vec<Vec<Summary>>,
}

impl<'a> Parts<'a> {
    /// `sections` of `requests` requests in all; fewer than two are none.
    pub fn new(classes: &'a [Class], measure: Measure, requests: u64, sections: usize) -> Self {
        let sections = if sections < 2 { 0 } else { sections };
        let recorders = |count: usize| vec![Recorder::new(measure.clone()); count];
        Self {
            classes,
            section: requests.div_ceil(sections.max(1) as u64).max(1),
            sections,
            whole: recorders(classes.len() - 1),
            parts: vec![recorders(sections); classes.len()],
        }
    }

    /// `all` is what the recorder of the whole run makes of it.
    pub fn finish(self, all: Summary) -> Summaries {
        let summaries = |recorders: Vec<Recorder>| recorders.into_iter().map(Recorder::summary);
        Summaries {
            whole: std::iter::once(all).chain(summaries(self.whole)).collect(),
            sections: self.parts.into_iter().map(|parts| summaries(parts).collect()).collect(),
        }
    }
}

impl Observer for Parts<'_> {
    fn on_request(&mut self, record: &RequestRecord) {
        // A section is told by the order of arrival, which is the same on both sides.
        let section = usize::try_from(record.uid / self.section).unwrap_or(usize::MAX);
        let section = section.min(self.sections.saturating_sub(1));
        for (i, class) in self.classes.iter().enumerate() {
            if !class.holds(record) {
                continue;
            }
            if i > 0 {
                self.whole[i - 1].on_request(record);
            }
            if let Some(part) = self.parts[i].get_mut(section) {
                part.on_request(record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn middle(prompts: &[u32]) -> Option<u32> {
        let mut census = Census::default();
        prompts.iter().for_each(|&prompt| census.add(prompt, 0));
        census.middle()
    }

    #[test]
    fn prompts_are_split_in_the_middle_and_never_into_nothing() {
        assert_eq!(middle(&[1, 2, 3, 4]), Some(3));
        assert_eq!(middle(&[10, 10, 10, 10, 500]), Some(500));
        assert_eq!(middle(&[10, 500, 500, 500, 500]), Some(500));
        assert_eq!(middle(&[10, 400, 500, 500, 500]), Some(500));
        assert_eq!(middle(&[7, 7, 7]), None);
        assert_eq!(middle(&[]), None);
    }

    #[test]
    fn there_are_classes_of_what_differs() {
        let mut census = Census::default();
        census.add(10, 0);
        census.add(10, 0);
        assert_eq!(census.classes(None, &["all".into()]), [Class::All]);
        census.add(20, 5);
        let names: Vec<_> = census
            .classes(None, &["chat".into(), "batch".into()])
            .iter()
            .map(Class::name)
            .collect();
        let want = ["all", "prompt < 20", "prompt >= 20", "priority 0", "priority 5"];
        assert_eq!(names[..5], want);
        assert_eq!(names[5..], ["tenant chat", "tenant batch"]);
    }
}
