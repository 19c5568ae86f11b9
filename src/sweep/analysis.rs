//! What the rows of a sweep say: who wins, why each other lost, the Pareto fronts, from which load
//! on another deployment is better.
//!
//! Points are ranked in cells: those that agree in what is given (the model, the lengths) and in the
//! load are the candidates for one job. Seeds are repetitions, and averaged. About a hundred bytes
//! are kept for each point, and beyond [`MOST_ANALYSED`] points there is no ranking, so that memory
//! stays bounded whatever the sweep.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::cells::Cells;
use super::journal::Header;
use super::rank::{RankSpec, Role};
use super::{Bound, PointStatus, columns};
use crate::cost::trust::Trust;

/// Beyond so many points `points.csv` is all there is.
pub const MOST_ANALYSED: u64 = 1_000_000;

/// An axis and its value, as in the table.
pub type Setting = (String, String);

/// All that a sweep says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub name: String,
    pub points: u64,
    /// How many points ended how.
    pub statuses: BTreeMap<&'static str, u64>,
    /// What is ranked by, and whether less of it is better.
    pub by: String,
    pub less_is_better: bool,
    /// The latency of the fronts.
    pub latency: String,
    pub cells: Vec<Cell>,
    pub fronts: Vec<Front>,
    pub break_even: Vec<BreakEven>,
    pub notes: Vec<String>,
}

/// The candidates for one job, best first.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    pub given: Vec<Setting>,
    pub load: Option<Load>,
    pub ranking: Vec<Candidate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<super::sensitivity::Sensitivity>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    pub key: String,
    pub value: f64,
}

/// A deployment in a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// From 1 for those that did what was asked.
    pub rank: Option<u64>,
    pub label: String,
    pub choice: Vec<Setting>,
    pub status: PointStatusName,
    /// What is ranked by.
    pub objective: Option<f64>,
    pub usd_per_1m_output_tokens: Option<f64>,
    pub output_throughput: Option<f64>,
    /// The latency of the fronts.
    pub latency: Option<f64>,
    pub ttft_ms_p99: Option<f64>,
    pub tpot_ms_p99: Option<f64>,
    pub bound: Option<String>,
    /// By what kind of numbers the figures are limited.
    pub trust: Option<Trust>,
    /// In a sentence: what it won by, or why it lost.
    pub verdict: String,
    /// Points behind it, one for each seed.
    pub points: Vec<u64>,
}

/// A status as it is written.
pub type PointStatusName = &'static str;

/// Points that no other beats in both of two figures.
#[derive(Clone, Debug, Serialize)]
pub struct Front {
    pub given: Vec<Setting>,
    /// What it costs or gives, and the latency.
    pub figure: String,
    pub latency: String,
    pub points: Vec<FrontPoint>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FrontPoint {
    pub label: String,
    pub load: Option<f64>,
    pub figure: f64,
    pub latency: f64,
}

/// The winners along the load.
#[derive(Clone, Debug, Serialize)]
pub struct BreakEven {
    pub given: Vec<Setting>,
    pub key: String,
    pub reigns: Vec<Reign>,
}

/// Neighbouring loads with one winner.
#[derive(Clone, Debug, Serialize)]
pub struct Reign {
    pub from: f64,
    pub to: f64,
    /// Nobody does what is asked.
    pub winner: Option<String>,
    /// What the change at its beginning looks like: the winner's objective and that of the one
    /// before.
    pub objective: Option<f64>,
    pub former: Option<f64>,
    /// Between the last load of the reign before and the first of this one, where a straight line
    /// through both objectives has them equal.
    pub crosses_at: Option<f64>,
}

/// Text, each kept once.
#[derive(Debug, Default)]
struct Names {
    ids: HashMap<Vec<String>, u32>,
    list: Vec<Vec<String>>,
}

impl Names {
    fn id(&mut self, name: Vec<String>) -> u32 {
        if let Some(&id) = self.ids.get(&name) {
            return id;
        }
        let id = u32::try_from(self.list.len()).expect("fewer names than points");
        self.ids.insert(name.clone(), id);
        self.list.push(name);
        id
    }
}

/// A cell: what is given, and the bits of the load, which sort as the loads do.
type CellKey = (u32, Option<u64>);

/// One candidate while rows come in.
#[derive(Clone, Debug)]
struct Sums {
    status: PointStatus,
    reason: String,
    bound: Option<String>,
    /// The worst of the points'.
    trust: Option<Trust>,
    /// Of each figure, its sum and in how many points there was one.
    sums: [(f64, u32); FIGURES],
    points: Vec<u64>,
}

const FIGURES: usize = 6;
const BY: usize = 0;
const USD: usize = 1;
const THROUGHPUT: usize = 2;
const LATENCY: usize = 3;
const TTFT: usize = 4;
const TPOT: usize = 5;

impl Sums {
    fn mean(&self, figure: usize) -> Option<f64> {
        let (sum, n) = self.sums[figure];
        (n > 0).then(|| sum / f64::from(n))
    }
}

/// Takes rows in and makes a [`Report`] of them.
#[derive(Debug)]
pub struct Analysis {
    name: String,
    rank: RankSpec,
    points: u64,
    statuses: BTreeMap<&'static str, u64>,
    /// Columns of the axes with their part in the ranking.
    axes: Vec<(usize, String, Role)>,
    load: Option<(usize, String)>,
    status: usize,
    reason: usize,
    bound: usize,
    trust: Option<usize>,
    figures: [Option<usize>; FIGURES],
    given: Names,
    choices: Names,
    cells: BTreeMap<CellKey, BTreeMap<u32, Sums>>,
    /// The row that is being taken in.
    row: Cells,
}

impl Analysis {
    pub fn new(header: &Header, rank: &RankSpec) -> Self {
        let column = |name: &str| header.columns.iter().position(|column| column == name);
        let required = |name: &str| column(name).expect("every sweep has this column");
        let mut axes = Vec::new();
        let mut load = None;
        for (i, key) in header.axes.iter().enumerate() {
            let at = columns::FIRST.len() + i;
            match rank.role(key) {
                Role::Load if load.is_none() => load = Some((at, key.clone())),
                // Two kinds of load in one sweep: the second tells cells apart like anything given.
                Role::Load => axes.push((at, key.clone(), Role::Given)),
                role => axes.push((at, key.clone(), role)),
            }
        }
        let by = rank.by.as_deref().and_then(column);
        Self {
            name: header.name.clone(),
            rank: rank.clone(),
            points: 0,
            statuses: BTreeMap::new(),
            axes,
            load,
            status: required("status"),
            reason: required("reason"),
            bound: required("bound"),
            trust: column("trust"),
            figures: [
                by,
                column("usd_per_1m_output_tokens"),
                column("output_throughput"),
                column(&rank.latency),
                column("ttft_ms.p99"),
                column("tpot_ms.p99"),
            ],
            given: Names::default(),
            choices: Names::default(),
            cells: BTreeMap::new(),
            row: Cells::default(),
        }
    }

    /// Takes in the row of the point with this number.
    pub fn add(&mut self, number: u64, row: &[u8]) {
        let mut cells = std::mem::take(&mut self.row);
        if cells.read(row) {
            self.add_cells(number, &cells);
        }
        self.row = cells;
    }

    fn add_cells(&mut self, number: u64, cells: &Cells) {
        let cell = |at: usize| cells.get(at);
        let Ok(status) = cell(self.status).parse::<PointStatus>() else { return };
        self.points += 1;
        *self.statuses.entry(status.name()).or_default() += 1;
        if self.points > MOST_ANALYSED {
            self.cells.clear();
            return;
        }
        let of_role = |wanted: Role| -> Vec<String> {
            let axes = self.axes.iter().filter(|(_, _, role)| *role == wanted);
            axes.map(|(at, _, _)| cell(*at).to_owned()).collect()
        };
        let (given, choice) = (of_role(Role::Given), of_role(Role::Choice));
        let load = self.load.as_ref().and_then(|(at, _)| cell(*at).parse::<f64>().ok());
        let (given, choice) = (self.given.id(given), self.choices.id(choice));
        // Loads are above zero, where bits sort as numbers do.
        let candidates = self.cells.entry((given, load.map(f64::to_bits))).or_default();
        let sums = candidates.entry(choice).or_insert_with(|| Sums {
            status,
            reason: String::new(),
            bound: None,
            trust: None,
            sums: [(0.0, 0); FIGURES],
            points: Vec::new(),
        });
        if status >= sums.status {
            sums.status = status;
            if sums.reason.is_empty() {
                cell(self.reason).clone_into(&mut sums.reason);
            }
        }
        let bound = cell(self.bound);
        if sums.bound.is_none() && !bound.is_empty() {
            sums.bound = Some(bound.to_owned());
        }
        let trust = self.trust.and_then(|at| cell(at).parse().ok());
        sums.trust = sums.trust.max(trust);
        for (column, (sum, n)) in self.figures.iter().zip(&mut sums.sums) {
            if let Some(value) = column.and_then(|at| cell(at).parse::<f64>().ok()) {
                *sum += value;
                *n += 1;
            }
        }
        sums.points.push(number);
    }

    /// What the rows say.
    pub fn report(self) -> Report {
        let mut report = Report {
            name: self.name.clone(),
            points: self.points,
            statuses: self.statuses.clone(),
            latency: self.rank.latency.clone(),
            ..Report::default()
        };
        if self.points > MOST_ANALYSED {
            report.notes.push(format!(
                "more than {MOST_ANALYSED} points: points.csv has them, and no ranking is made"
            ));
            return report;
        }
        let all = || self.cells.values().flat_map(BTreeMap::values);
        let (by, by_figure) = match &self.rank.by {
            Some(by) => (by.as_str(), BY),
            None if all().all(|sums| !sums.status.ran() || sums.sums[USD].1 > 0) => {
                ("usd_per_1m_output_tokens", USD)
            }
            None => ("output_throughput", THROUGHPUT),
        };
        report.by = by.to_owned();
        report.less_is_better = columns::less_is_better(by).unwrap_or(true);
        for (key, candidates) in &self.cells {
            report.cells.push(self.cell(*key, candidates, by_figure, report.less_is_better));
        }
        report.fronts = fronts(&report);
        report.break_even = break_even(&report);
        report
    }

    fn settings(&self, role: Role, values: &[String]) -> Vec<Setting> {
        let keys = self.axes.iter().filter(|(_, _, of)| *of == role).map(|(_, key, _)| key);
        keys.cloned().zip(values.iter().cloned()).collect()
    }

    fn cell(
        &self,
        (given, load): CellKey,
        candidates: &BTreeMap<u32, Sums>,
        by: usize,
        less: bool,
    ) -> Cell {
        let mut order: Vec<(&u32, &Sums)> = candidates.iter().collect();
        // Equal ones stay in the order of the grid.
        order.sort_by(|(_, a), (_, b)| {
            let goodness = |sums: &Sums| {
                let value = sums.mean(by).unwrap_or(f64::INFINITY);
                if less || value.is_infinite() { value } else { -value }
            };
            a.status.cmp(&b.status).then(goodness(a).total_cmp(&goodness(b)))
        });
        let best = order.first().filter(|(_, s)| s.status == PointStatus::Ok);
        let best = best.and_then(|(_, sums)| sums.mean(by));
        let next = order.get(1).filter(|(_, s)| s.status == PointStatus::Ok);
        let next = next.and_then(|(_, sums)| sums.mean(by));
        let ranking = order
            .iter()
            .enumerate()
            .map(|(i, (choice, sums))| {
                let choice = &self.choices.list[**choice as usize];
                let choice = self.settings(Role::Choice, choice);
                let objective = sums.mean(by);
                let ok = sums.status == PointStatus::Ok;
                let bound = sums.bound.as_deref().and_then(|bound| bound.parse::<Bound>().ok());
                let verdict = if i == 0 && ok {
                    match (best, next) {
                        (Some(best), Some(next)) => {
                            format!("wins: the next is {}", behind(next, best, by, &self.rank))
                        }
                        _ => "wins: nothing else does what is asked".to_owned(),
                    }
                } else {
                    self.why_lost(sums, objective, best, by)
                };
                let verdict = match bound {
                    Some(bound) if sums.status.ran() => format!("{verdict}; {}", held(bound)),
                    _ => verdict,
                };
                Candidate {
                    rank: ok.then_some(i as u64 + 1),
                    label: label(&choice),
                    choice,
                    status: sums.status.name(),
                    objective,
                    usd_per_1m_output_tokens: sums.mean(USD),
                    output_throughput: sums.mean(THROUGHPUT),
                    latency: sums.mean(LATENCY),
                    ttft_ms_p99: sums.mean(TTFT),
                    tpot_ms_p99: sums.mean(TPOT),
                    bound: sums.bound.clone(),
                    trust: sums.trust,
                    verdict,
                    points: sums.points.clone(),
                }
            })
            .collect();
        let load = load.and_then(|bits| {
            let (_, key) = self.load.as_ref()?;
            Some(Load { key: key.clone(), value: f64::from_bits(bits) })
        });
        let given = self.settings(Role::Given, &self.given.list[given as usize]);
        Cell { given, load, ranking, sensitivity: None }
    }

    fn why_lost(&self, sums: &Sums, own: Option<f64>, best: Option<f64>, by: usize) -> String {
        let what = match sums.status {
            PointStatus::Ok => {
                let (Some(own), Some(best)) = (own, best) else { return "not ranked".into() };
                return behind(own, best, by, &self.rank);
            }
            PointStatus::SloMissed => "misses the SLO",
            PointStatus::NothingServed => "serves nothing",
            PointStatus::DoesNotFit => "does not fit",
            PointStatus::Impossible => "impossible",
            PointStatus::NotCalibrated => "no coefficients",
        };
        if sums.reason.is_empty() { what.to_owned() } else { format!("{what}: {}", sums.reason) }
    }
}

/// By how much an objective is worse than the best.
fn behind(own: f64, best: f64, by: usize, rank: &RankSpec) -> String {
    let percent = (own / best - 1.0) * 100.0;
    match by {
        USD => format!("{percent:.1} % dearer"),
        THROUGHPUT => format!("{:.1} % slower", -percent),
        _ => format!("{percent:+.1} % in {}", rank.by.as_deref().unwrap_or("the objective")),
    }
}

const fn held(bound: Bound) -> &'static str {
    match bound {
        Bound::Seats => "queue-bound",
        Bound::Kv => "KV-bound",
        Bound::Compute => "compute-bound",
        Bound::Bandwidth => "bandwidth-bound",
        Bound::Interconnect => "interconnect-bound",
        Bound::Host => "host-bound",
        Bound::Load => "hardly loaded",
    }
}

/// A deployment in a few words: `g5.12xlarge tp 4`.
pub fn label(choice: &[Setting]) -> String {
    let words: Vec<String> = choice
        .iter()
        .map(|(key, value)| match key.as_str() {
            "hardware.instance" | "hardware.gpu" | "engine.name" | "model.name"
            | "model.quantize" => value.clone(),
            "engine.tensor-parallel-size" => format!("tp {value}"),
            "engine.replicas" => format!("x{value}"),
            _ => format!("{} {value}", key.rsplit('.').next().unwrap_or(key)),
        })
        .collect();
    if words.is_empty() { "the base".to_owned() } else { words.join(" ") }
}

/// Cells with the same givens, which differ in load alone.
fn families(cells: &[Cell]) -> Vec<&[Cell]> {
    cells.chunk_by(|a, b| a.given == b.given).collect()
}

fn fronts(report: &Report) -> Vec<Front> {
    let mut fronts = Vec::new();
    for family in families(&report.cells) {
        type Get = fn(&Candidate) -> Option<f64>;
        let figures: [(&str, bool, Get); 2] = [
            ("usd_per_1m_output_tokens", true, |c| c.usd_per_1m_output_tokens),
            ("output_throughput", false, |c| c.output_throughput),
        ];
        for (figure, less, get) in figures {
            let mut points: Vec<FrontPoint> = family
                .iter()
                .flat_map(|cell| cell.ranking.iter().map(move |candidate| (cell, candidate)))
                .filter_map(|(cell, candidate)| {
                    Some(FrontPoint {
                        label: candidate.label.clone(),
                        load: cell.load.as_ref().map(|load| load.value),
                        figure: get(candidate)?,
                        latency: candidate.latency?,
                    })
                })
                .collect();
            if points.is_empty() {
                continue;
            }
            let sign = if less { 1.0 } else { -1.0 };
            points.sort_by(|a, b| {
                let figures = (sign * a.figure).total_cmp(&(sign * b.figure));
                a.latency.total_cmp(&b.latency).then(figures)
            });
            // Along rising latency, a point stays if its figure is better than all before.
            let mut best = f64::INFINITY;
            points.retain(|point| {
                let better = sign * point.figure < best;
                if better {
                    best = sign * point.figure;
                }
                better
            });
            fronts.push(Front {
                given: family[0].given.clone(),
                figure: figure.to_owned(),
                latency: report.latency.clone(),
                points,
            });
        }
    }
    fronts
}

fn break_even(report: &Report) -> Vec<BreakEven> {
    let mut all = Vec::new();
    for family in families(&report.cells) {
        let loads: Vec<(&Load, &Cell)> =
            family.iter().filter_map(|cell| Some((cell.load.as_ref()?, cell))).collect();
        let Some((first, _)) = loads.first() else { continue };
        if loads.len() < 2 {
            continue;
        }
        let mut reigns: Vec<Reign> = Vec::new();
        let mut before: Option<&Cell> = None;
        for (load, cell) in &loads {
            let winner = cell.ranking.first().filter(|candidate| candidate.rank == Some(1));
            let name = winner.map(|winner| winner.label.clone());
            let objective = winner.and_then(|winner| winner.objective);
            match reigns.last_mut() {
                Some(reign) if reign.winner == name => reign.to = load.value,
                last => {
                    let old = last.and_then(|reign| reign.winner.clone());
                    let in_cell = |cell: &Cell, name: &Option<String>| {
                        let name = name.as_ref()?;
                        let found = cell.ranking.iter().find(|c| c.label == *name)?;
                        found.rank.and(found.objective)
                    };
                    let former = in_cell(cell, &old);
                    let crosses_at = before.and_then(|before| {
                        let start = before.load.as_ref()?.value;
                        let gap = in_cell(before, &name)? - in_cell(before, &old)?;
                        let now = objective? - former?;
                        (gap != now).then(|| start + (load.value - start) * gap / (gap - now))
                    });
                    reigns.push(Reign {
                        from: load.value,
                        to: load.value,
                        winner: name,
                        objective,
                        former,
                        crosses_at,
                    });
                }
            }
            before = Some(cell);
        }
        let given = family[0].given.clone();
        all.push(BreakEven { given, key: first.key.clone(), reigns });
    }
    all
}
