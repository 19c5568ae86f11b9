//! What is asked of a deployment: `ttft:p99<2s`, `tpot<60ms`, `goodput>=99%`.
//!
//! The form of vLLM's `bench serve --goodput`, `ttft:2000`, is understood too: its limits are
//! milliseconds.

use std::fmt;

use crate::named::{named_enum, nearest};
use crate::scenario::SloSpec;
use crate::time::SimDuration;

named_enum! {
    /// A latency that can be limited.
    pub enum Latency as "latency" {
        Ttft = "ttft",
        Tpot = "tpot",
        Itl = "itl",
        E2el = "e2el",
    }
}

impl Latency {
    /// As reports write it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ttft => "TTFT",
            Self::Tpot => "TPOT",
            Self::Itl => "ITL",
            Self::E2el => "E2E",
        }
    }
}

/// What is taken of all requests' latencies.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Statistic {
    Mean,
    /// Above 0, at most 100.
    Percentile(f64),
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Percentile(percent) => write!(f, "p{percent}"),
        }
    }
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub latency: Latency,
    pub statistic: Statistic,
    pub most: SimDuration,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.most.as_millis_f64();
        let (number, unit) = if ms < 1000.0 { (ms, "ms") } else { (ms / 1000.0, "s") };
        write!(f, "{} {} < {number}{unit}", self.statistic, self.latency.title())
    }
}

/// Everything that is asked; at least one limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    pub limits: Vec<Limit>,
    /// Share of the requests that must be within all limits at once, each by itself.
    pub goodput: Option<f64>,
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: Vec<String> = self.limits.iter().map(Limit::to_string).collect();
        f.write_str(&limits.join(", "))?;
        match self.goodput {
            Some(share) => write!(f, ", {} % of the requests within all", share * 100.0),
            None => Ok(()),
        }
    }
}

/// Why an objective cannot be used: what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n  = help: {help}")]
pub struct SloError {
    problem: String,
    help: String,
}

fn fault<T>(problem: impl Into<String>, help: impl Into<String>) -> Result<T, SloError> {
    Err(SloError { problem: problem.into(), help: help.into() })
}

const FORM: &str = "write it as in ttft:p99<2s, tpot<60ms, e2el:mean<5s or goodput>=99%";

enum Term {
    Limit(Limit),
    Goodput(f64),
}

impl Objective {
    /// Reads terms; several may stand in one text, separated by commas or blanks.
    pub fn parse(texts: &[String]) -> Result<Self, SloError> {
        let mut objective = Self { limits: Vec::new(), goodput: None };
        let words = texts.iter().flat_map(|text| text.split([',', ' ']));
        for word in words.map(str::trim).filter(|word| !word.is_empty()) {
            match term(word)? {
                Term::Limit(limit) => objective.add(limit)?,
                Term::Goodput(share) => {
                    if objective.goodput.is_some_and(|other| other != share) {
                        return fault("the SLO asks for two shares of goodput", "keep one");
                    }
                    objective.goodput = Some(share);
                }
            }
        }
        if objective.limits.is_empty() {
            return match objective.goodput {
                Some(_) => fault(
                    "goodput is the share of requests within limits, and there are none",
                    "add limits, as in --slo ttft<2s --slo goodput>=99%",
                ),
                None => fault("the SLO is empty", FORM),
            };
        }
        Ok(objective)
    }

    /// The objective of a scenario.
    pub fn of(slo: &SloSpec) -> Self {
        let limits =
            [(Latency::Ttft, slo.ttft), (Latency::Tpot, slo.tpot), (Latency::E2el, slo.e2el)];
        let statistic = Statistic::Percentile(slo.percentile);
        let limits = limits
            .into_iter()
            .filter_map(|(latency, most)| Some(Limit { latency, statistic, most: most? }))
            .collect();
        Self { limits, goodput: None }
    }

    /// Adds a limit, unless it contradicts one that is there or says nothing beside it.
    fn add(&mut self, limit: Limit) -> Result<(), SloError> {
        for other in &self.limits {
            if other.latency == limit.latency && other.statistic == limit.statistic {
                if other.most == limit.most {
                    return Ok(());
                }
                return fault(
                    format!("the SLO contradicts itself: {other} and {limit}"),
                    "keep one of them",
                );
            }
            let (Statistic::Percentile(p), Statistic::Percentile(q)) =
                (limit.statistic, other.statistic)
            else {
                continue;
            };
            if other.latency == limit.latency {
                let (low, high) = if p < q { (&limit, other) } else { (other, &limit) };
                if low.most >= high.most {
                    return fault(
                        format!("the SLO contradicts itself: {low} says nothing beside {high}"),
                        "a lower percentile has a lower limit: swap them, or drop the first",
                    );
                }
            }
        }
        self.limits.push(limit);
        Ok(())
    }
}

fn term(word: &str) -> Result<Term, SloError> {
    let unusable = |why: &str| fault(format!("the SLO {word:?} cannot be used: {why}"), FORM);
    let split = word.find(['<', '>', '=']).map(|at| word.split_at(at));
    // vLLM's form has a colon before the limit.
    let Some((left, right)) = split.or_else(|| word.rsplit_once(':')) else {
        return unusable("it has no limit");
    };
    let (sign, limit) = match right {
        _ if split.is_none() => ("<", right),
        _ => {
            let length = right.find(|c| !"<>=".contains(c)).unwrap_or(right.len());
            right.split_at(length)
        }
    };
    let (name, statistic) = match left.split_once(':') {
        None => (left, None),
        Some((name, statistic)) => (name, Some(statistic)),
    };
    let below = match sign {
        "<" | "<=" | "=" | "==" => true,
        ">" | ">=" => false,
        _ => return unusable("expected <, <= or >="),
    };
    if name == "goodput" || name == "attainment" {
        let number = limit.strip_suffix('%').map_or((limit, 1.0), |number| (number, 0.01));
        let share = number.0.trim().parse::<f64>().map(|share| share * number.1);
        return match (share, statistic) {
            (Ok(share), None) if share > 0.0 && share <= 1.0 => {
                if below && sign.starts_with('<') {
                    return unusable("a share of good requests has a lower limit");
                }
                Ok(Term::Goodput(share))
            }
            _ => unusable("goodput is a share above 0 and at most 100%"),
        };
    }
    let latency = match name {
        "e2e" => Latency::E2el,
        _ => match name.parse::<Latency>() {
            Ok(latency) => latency,
            Err(_) => {
                let known = Latency::names().chain(["goodput"]);
                return match nearest(name, known) {
                    Some(near) => unusable(&format!("no latency {name:?}; did you mean {near}?")),
                    None => unusable(&format!("no latency {name:?}")),
                };
            }
        },
    };
    if !below {
        return unusable("a latency has an upper limit");
    }
    let statistic = match statistic {
        None => Statistic::Percentile(99.0),
        Some("mean" | "avg") => Statistic::Mean,
        Some("median") => Statistic::Percentile(50.0),
        Some("max") => Statistic::Percentile(100.0),
        Some(text) => match text.strip_prefix('p').unwrap_or(text).parse::<f64>() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Statistic::Percentile(percent),
            _ => return unusable("the percentile is p50, p99, p99.9, mean or max"),
        },
    };
    let most = match limit.parse::<f64>() {
        Ok(ms) if ms.is_finite() && ms >= 0.0 => SimDuration::from_secs_f64(ms / 1000.0),
        Ok(_) => return unusable("the limit is a time above zero"),
        Err(_) => match limit.parse::<SimDuration>() {
            Ok(most) => most,
            Err(_) => return unusable("the limit is a time, as in 2s or 60ms"),
        },
    };
    if most == SimDuration::ZERO {
        return unusable("no request takes no time at all");
    }
    Ok(Term::Limit(Limit { latency, statistic, most }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<String, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        match Objective::parse(&texts) {
            Ok(objective) => Ok(objective.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn objectives_are_read_in_the_forms_that_people_know() {
        let cases = [
            (&["ttft:p99<2s", "tpot:p99<60ms"][..], "p99 TTFT < 2s, p99 TPOT < 60ms"),
            (&["ttft<2s,tpot<=60ms"], "p99 TTFT < 2s, p99 TPOT < 60ms"),
            // vLLM's --goodput, in milliseconds.
            (&["ttft:2000", "e2el:5000"], "p99 TTFT < 2s, p99 E2E < 5s"),
            (&["e2e:mean<5s", "itl:p99.9<0.2s"], "mean E2E < 5s, p99.9 ITL < 200ms"),
            (&["ttft:p50<1s", "ttft:p99<2s"], "p50 TTFT < 1s, p99 TTFT < 2s"),
            (&["ttft<2s", "goodput>=99%"], "p99 TTFT < 2s, 99 % of the requests within all"),
            (&["ttft<2s ttft<2s goodput>0.5"], "p99 TTFT < 2s, 50 % of the requests within all"),
        ];
        for (texts, want) in cases {
            assert_eq!(parse(texts).as_deref(), Ok(want), "{texts:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_the_reason() {
        let cases = [
            (&["ttft:p99<2s", "ttft:p99<1s"][..], "contradicts itself: p99 TTFT < 2s"),
            (&["ttft:p99<1s", "ttft:p50<2s"], "p50 TTFT < 2s says nothing beside p99"),
            (&["ttft>2s"], "has an upper limit"),
            (&["ttft"], "no limit"),
            (&["ttft<0s"], "no time at all"),
            (&["ttft<fast"], "is a time"),
            (&["ttft:p101<1s"], "the percentile is"),
            (&["tftt<1s"], "did you mean ttft"),
            (&["goodput>=99%"], "and there are none"),
            (&["ttft<1s", "goodput>=101%"], "at most 100%"),
            (&["ttft<1s", "goodput<=50%"], "has a lower limit"),
            (&["ttft<1s", "goodput>=50%", "goodput>=60%"], "two shares"),
            (&[""], "empty"),
        ];
        for (texts, want) in cases {
            let error = parse(texts).expect_err(want);
            assert!(error.contains(want) && error.contains("= help:"), "{texts:?}: {error}");
        }
    }
}
